// One pixel's ramp in one integration: samples, flags, the segments to fit, and properties of the detector.
//
// Samples are DN, times seconds.
#pragma once

#include "types.cuh"

namespace gpucoron {

struct Times {
  double group;
  double frame;
  double one_group;  // the effective time of a single first group
};

struct Detector {
  double gain;        // e-/DN
  double read_noise;  // electrons per group, rounded to float32 as stcal's caller does

  __device__ bool gain_is_bad() const { return gain <= 0.0 || is_nan(gain); }

  // Variance of the slope of a segment of `length` groups, from read noise.
  __device__ double slope_variance(double length, double time) const {
    const double ratio = read_noise / time;
    const double spread = length * length * length - length;
    return 12.0 * ratio * ratio / (spread * gain * gain);
  }
};

__device__ inline Detector detector_of(const float* gain, const float* readnoise, int64 pixel, double noise_divisor) {
  return {gain[pixel], float(double(readnoise[pixel]) * (double(gain[pixel]) / noise_divisor))};
}

// The pixel flags of a gain that cannot be used.
__device__ inline uint32 flags_of_gain(const Detector& detector) {
  return detector.gain_is_bad() ? DO_NOT_USE | NO_GAIN_VALUE : 0u;
}

__device__ inline float sample_at(const float* place) {
  count_reads(1);
  return *place;
}

// The samples and flags of one ramp; a zeroframe may replace the first group.
struct Ramp {
  const float* data;
  const uint8* groupdq;
  int64 stride;
  int n_groups;
  bool is_clean;  // no flags at all
  bool starts_with_zeroframe;
  float zeroframe;

  __device__ uint32 dq(int group) const {
    return is_clean || (starts_with_zeroframe && group == 0) ? 0u : groupdq[group * stride];
  }

  __device__ double sample(int group) const {
    const double value = sample_at(data + group * stride);
    if (is_clean) return value;
    if (starts_with_zeroframe && group == 0) return zeroframe;
    return (groupdq[group * stride] & SATURATED) ? double_nan() : value;
  }

  // Visit (group, flags, sample) of groups in the order of time.
  template <class Visit>
  __device__ void each_group(int start, int stop, const Visit& visit) const {
    for (int group = start; group < stop; ++group) visit(group, dq(group), sample(group));
  }

  // A function of the group.
  __device__ auto flags() const {
    return [this](int group) { return dq(group); };
  }
};

// The flags of a ramp in the memory of a device: several are read at a time.
class FlagsAhead {
 public:
  __device__ explicit FlagsAhead(const Ramp& of) : ramp(of) {}

  __device__ uint32 operator()(int group) const {
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
  mutable uint64 flags = 0;
  mutable int first = -AT_ONCE;
};

// A ramp in the memory of a device: the reads of several groups do not wait for each other.
struct DistantRamp : Ramp {
  static constexpr int AT_ONCE = 4;

  template <class Visit>
  __device__ void each_group(int start, int stop, const Visit& visit) const {
    const auto visit_one = [&](int group, uint32 dq, float sample) {
      const bool is_replaced = starts_with_zeroframe && group == 0;
      const double value = is_replaced ? zeroframe : sample;
      if (is_replaced) dq = 0;
      visit(group, dq, dq & SATURATED ? double_nan() : value);
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

  __device__ FlagsAhead flags() const { return FlagsAhead(*this); }
};

// A summary of the flags of a ramp.
struct RampFlags {
  int n_good;
  int n_unusable;
  int n_saturated;
  uint32 any;
};

// Of a ramp without a zeroframe.
template <class AnyRamp>
__device__ RampFlags gather_flags(const AnyRamp& ramp) {
  RampFlags found{0, 0, 0, 0u};
  const auto dq_of = ramp.flags();
  for (int group = 0; group < ramp.n_groups; ++group) {
    const uint32 dq = dq_of(group);
    found.n_good += dq == 0;
    found.n_unusable += (dq & UNUSABLE) != 0;
    found.n_saturated += (dq & SATURATED) != 0;
    found.any |= dq;
  }
  return found;
}

struct Segment {
  int start;
  int stop;  // the group after the last one
  __device__ int length() const { return stop - start; }
};

// The next run of good groups from `cursor` on, starting with a jump group before it. Persistence does not end a run.
template <class Flags>
__device__ bool next_segment(const Flags& dq, int n_groups, int& cursor, Segment& segment) {
  while (cursor < n_groups && (dq(cursor) & ~PERSISTENCE)) ++cursor;
  if (cursor == n_groups) return false;
  segment.start = cursor > 0 && (dq(cursor - 1) & ~PERSISTENCE) == JUMP_DET ? cursor - 1 : cursor;
  while (cursor < n_groups && !(dq(cursor) & ~PERSISTENCE)) ++cursor;
  segment.stop = cursor;
  return true;
}

// Visit the segments to fit: all with more than one group or, if there are none, the first one.
template <class Flags, class Visit>
__device__ int each_segment(const Flags& dq, int n_groups, Visit visit) {
  Segment segment{0, 0};
  Segment single{0, 0};
  int n_visited = 0;
  for (int cursor = 0; next_segment(dq, n_groups, cursor, segment);) {
    if (segment.length() > 1) {
      visit(segment);
      ++n_visited;
    } else if (single.stop == 0) {
      single = segment;
    }
  }
  if (n_visited == 0 && single.stop > 0) {
    visit(single);
    n_visited = 1;
  }
  return n_visited;
}

}  // namespace gpucoron
