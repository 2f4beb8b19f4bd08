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
  // What has dq(group) to search for segments.
  using Flags = const Ramp&;

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
};

// A summary of the flags of a ramp.
struct RampFlags {
  int n_good;
  int n_unusable;
  int n_saturated;
  uint32 any;
};

__device__ inline RampFlags gather_flags(const Ramp& ramp) {
  RampFlags found{0, 0, 0, 0u};
#pragma unroll 8
  for (int group = 0; group < ramp.n_groups; ++group) {
    const uint32 dq = ramp.groupdq[group * ramp.stride];
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
