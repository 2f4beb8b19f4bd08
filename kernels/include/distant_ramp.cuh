// A ramp in the memory of a device, for `fit_ramp` and what follows it: reads of several groups do not wait for each other.
#pragma once

#include "ramp_fit.cuh"

namespace gpucoron {

// The flags of a ramp, of which several are read at a time.
class FlagsAhead {
 public:
  __device__ explicit FlagsAhead(const Ramp& of) : ramp(of) {}

  __device__ uint32 dq(int group) {
    if (ramp.is_clean || (ramp.starts_with_zeroframe && group == 0)) return 0;
    if (group < first || group >= first + AT_ONCE) {
      first = group / AT_ONCE * AT_ONCE;
      flags = 0;
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j)
        if (first + j < ramp.n_groups) flags |= uint64(ramp.groupdq[(first + j) * ramp.stride]) << 8 * j;
    }
    return uint32(flags >> 8 * (group - first)) & 255u;
  }

 private:
  static constexpr int AT_ONCE = 8;
  const Ramp& ramp;
  uint64 flags = 0;
  int first = -AT_ONCE;
};

struct DistantRamp : Ramp {
  using Flags = FlagsAhead;
  static constexpr int AT_ONCE = 4;

  // Visit (group, flags, sample) of groups in the order of time.
  template <class Visit>
  __device__ void each_group(int start, int stop, const Visit& visit) const {
    const auto visit_one = [&](int group, uint32 dq, float sample) {
      const bool is_replaced = starts_with_zeroframe && group == 0;
      if (is_replaced) dq = 0;
      visit(group, dq, is_replaced ? zeroframe : dq & SATURATED ? double_nan() : sample);
    };
    int group = start;
    for (; group + AT_ONCE <= stop; group += AT_ONCE) {
      float samples[AT_ONCE];
      uint32 dq[AT_ONCE];
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) {
        samples[j] = sample_at(data + (group + j) * stride);
        dq[j] = groupdq[(group + j) * stride];
      }
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) visit_one(group + j, dq[j], samples[j]);
    }
    for (; group < stop; ++group) visit_one(group, groupdq[group * stride], sample_at(data + group * stride));
  }
};

// As of any ramp.
__device__ inline Line fit_line(const DistantRamp& ramp, const Detector& detector, const Weights& weights,
                                const Segment& segment, double group_time) {
  const double rise = ramp.sample(segment.stop - 1) - ramp.sample(segment.start);
  const float* const first = weights_of_rise(weights, detector, segment.length(), rise);
  const double inverse_variance = 1.0 / (detector.read_noise * detector.read_noise);
  LineSums sums;
  ramp.each_group(segment.start, segment.stop, [&](int group, uint32, double sample) {
    const double weight = Weights::at(first, group - segment.start, segment.length()) * inverse_variance;
    sums.add(group, is_nan(sample) ? 0.0 : sample, weight);
  });
  return sums.line(group_time);
}

template <class Median>
__device__ double median_rate(const DistantRamp& ramp, double group_time, const Median& median) {
  const auto rate_of = [&](uint32 dq, double sample) { return dq & DO_NOT_USE ? double_nan() : sample / group_time; };
  const double first = rate_of(ramp.dq(0), ramp.sample(0));
  const auto streamed = [&](auto visit) {
    double previous = first;
    ramp.each_group(1, ramp.n_groups, [&](int, uint32 dq, double sample) {
      const double current = rate_of(dq, sample);
      if (!(dq & JUMP_DET)) visit(current - previous);
      previous = current;
    });
  };
  int count = 0;
  const double found = median(streamed, ramp.n_groups - 1, count);
  return count == 0 ? first : found;
}

}  // namespace gpucoron
