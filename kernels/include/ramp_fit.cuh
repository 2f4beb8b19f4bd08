// Fit of one pixel's ramp in one integration by optimally weighted least squares of segments, as in stcal's OLS_C.
//
// Source: Robberto 2008, JWST-STScI-0001490; Fixsen et al. 2000, PASP 112, 1350 (weights); Offenberg et al. 2001.
// Samples are DN, times seconds, and everything is float64, in the order of operations of the C source.
#pragma once

#include "lanes.cuh"
#include "order_statistics.cuh"

namespace gpucoron {

constexpr double LARGE_VARIANCE = 1e6;  // (DN/s)^2; larger variances are written as 0

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
    const double value = data[group * stride];
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

// Weight classes of Fixsen et al. (2000): the power of the weights, larger if the ends of a ramp count more.
enum WeightClass { FLAT, FOUR_TENTHS, LINEAR, CUBIC, SIXTH, TENTH };

__device__ inline WeightClass weight_class(double signal_to_noise) {
  if (signal_to_noise < 5.0) return FLAT;
  if (signal_to_noise < 10.0) return FOUR_TENTHS;
  if (signal_to_noise < 20.0) return LINEAR;
  if (signal_to_noise < 50.0) return CUBIC;
  if (signal_to_noise < 100.0) return SIXTH;
  return TENTH;  // also for NaN
}

// The weights of the groups of all possible segments, before division by the squared read noise: for each length from 0 on,
// and each class, those of the first half of the groups; the second half is symmetric. The host computes them with powf() of
// the C library, as stcal does.
struct Weights {
  static constexpr int N_CLASSES = TENTH + 1;
  const float* table;

  // The start of a length and class: all shorter lengths have a quarter of the squared length.
  __device__ const float* of(int length, WeightClass which) const {
    return table + int64(length) * length / 4 * N_CLASSES + which * ((length + 1) / 2);
  }
  __device__ static float at(const float* first, int index, int length) {
    return first[smaller(index, length - 1 - index)];
  }
};

// A line through the groups of a segment: its slope, DN/s, and the value at the first group of the ramp, DN, with the
// uncertainties that follow from the read noise, e-/group and e-.
struct Line {
  double slope;
  double slope_sigma;
  double intercept;
  double intercept_sigma;
};

// The line through a segment of three groups or more.
__device__ inline Line fit_line(const Ramp& ramp, const Detector& detector, const Weights& weights, const Segment& segment,
                                double group_time) {
  const double noise_variance = detector.read_noise * detector.read_noise;
  const double rise = ramp.sample(segment.stop - 1) - ramp.sample(segment.start);
  const double variance = noise_variance + rise * detector.gain;
  double signal_to_noise = 0.0;
  if (!(variance <= 0.0 || detector.gain == 0.0)) {
    signal_to_noise = rise * detector.gain / sqrt(variance);
    if (signal_to_noise < 0.0) signal_to_noise = 0.0;
  }
  const float* const first = weights.of(segment.length(), weight_class(signal_to_noise));
  const double inverse_variance = 1.0 / noise_variance;
  double sum_w = 0.0, sum_x = 0.0, sum_xx = 0.0, sum_y = 0.0, sum_xy = 0.0;
  for (int group = segment.start; group < segment.stop; ++group) {
    const double weight = Weights::at(first, group - segment.start, segment.length()) * inverse_variance;
    double y = ramp.sample(group);
    if (is_nan(y)) y = 0.0;
    const double x = group;
    const double weighted_x = x * weight;
    sum_w += weight;
    sum_x += weighted_x;
    sum_xx += x * weighted_x;
    sum_y += y * weight;
    sum_xy += y * weighted_x;
  }
  const double inverse_determinant = 1.0 / (sum_w * sum_xx - sum_x * sum_x);
  return {(sum_w * sum_xy - sum_x * sum_y) * inverse_determinant / group_time, sqrt(sum_w * inverse_determinant),
          (sum_xx * sum_y - sum_x * sum_xy) * inverse_determinant, sqrt(sum_xx * inverse_determinant)};
}

// Median of the good differences of a ramp, DN/s; the first sample's rate if no difference is good; else NaN.
__device__ inline double median_rate(const Ramp& ramp, double group_time) {
  auto rate_of = [&](int group) {
    return (ramp.dq(group) & DO_NOT_USE) ? double_nan() : ramp.sample(group) / group_time;
  };
  auto streamed = [&](auto visit) {
    double previous = rate_of(0);
    for (int group = 1; group < ramp.n_groups; ++group) {
      const double current = rate_of(group);
      if (!(ramp.dq(group) & JUMP_DET)) visit(current - previous);
      previous = current;
    }
  };
  const auto& differences = keep<double>(streamed, ramp.n_groups - 1);
  const Survey<double> all = survey<double, Lanes<1>>(differences);
  if (all.count == 0) return rate_of(0);
  return median_of_ranks<double, Lanes<1>>(differences, 0, all.count, all.low, all.high);
}

// Properties of a ramp that the first kernel stores for the later ones, in one word.
enum RampState : uint32 {
  FITTED = 1u << 0,          // it has fitted segments
  ONE_SEGMENT = 1u << 1,     // exactly one, with its length in the upper bits
  FIRST_ONLY = 1u << 2,      // only the first group is good
  FROM_ZEROFRAME = 1u << 3,  // only the zeroframe is good
  LOST_CHARGE = 1u << 4,     // some group has CHARGELOSS
  PARTLY_SATURATED = 1u << 5,
  ALL_SATURATED = 1u << 6,   // SATURATED, not counting partial saturation
  HAD_JUMP = 1u << 7,
  HAD_PERSISTENCE = 1u << 8,
};
constexpr int LENGTH_SHIFT = 12;
constexpr int LONGEST_IN_STATE = 1 << (32 - LENGTH_SHIFT);

// Integration time of a segment of one group.
__device__ inline double single_group_time(uint32 state, const Times& times) {
  if (state & FIRST_ONLY) return times.one_group;
  if (state & FROM_ZEROFRAME) return times.frame;
  return times.group;
}

__device__ inline double read_variance(const Detector& detector, int length, uint32 state, const Times& times) {
  if (length == 1) return detector.slope_variance(2.0, single_group_time(state, times));
  if (length == 2) return detector.slope_variance(2.0, times.group);
  return detector.gain_is_bad() ? 0.0 : detector.slope_variance(length, times.group);
}

// Poisson variance of a segment's slope, from the pixel's median rate and dark current.
__device__ inline double poisson_variance(const Detector& detector, int length, uint32 state, double signal, double dark,
                                          const Times& times) {
  double exposure;
  if (length == 1)
    exposure = single_group_time(state, times) * detector.gain;
  else if (length == 2)
    exposure = times.group * detector.gain;
  else
    exposure = times.group * detector.gain * (length - 1.0);
  return (signal > 0.0 ? signal + dark : dark) / exposure;
}

__device__ inline double drop_large(double variance) { return variance >= LARGE_VARIANCE ? 0.0 : variance; }

// What the samples of a ramp say: its median rate, DN/s, and the sums over its segments of slope / variance and 1 / variance
// (read noise). `dq` has the pixel flags that it adds.
struct RampFit {
  double median_rate;
  double slope_sum;
  double read_weight;
  uint32 state;
  uint32 dq;
};

// Fit a ramp. `zeroframe` is the first frame of this ramp, or null.
__device__ inline RampFit fit_ramp(Ramp ramp, const Detector& detector, const Weights& weights, const Times& times,
                                   const float* zeroframe, bool suppress_one_group) {
  RampFlags flags = gather_flags(ramp);
  ramp.is_clean = flags.any == 0;
  uint32 state = 0;
  if (!suppress_one_group) {
    if (flags.n_good == 1 && ramp.dq(0) == 0) {
      state |= FIRST_ONLY;
    } else if (flags.n_good == 0 && zeroframe && *zeroframe != 0.0f) {
      state |= FROM_ZEROFRAME;
      ramp.starts_with_zeroframe = true;
      ramp.zeroframe = *zeroframe;
      --flags.n_unusable;
      if (flags.n_saturated == ramp.n_groups) --flags.n_saturated;
    }
  }
  if (flags.any & CHARGELOSS) state |= LOST_CHARGE;
  if (flags.any & JUMP_DET) state |= HAD_JUMP;
  if (flags.any & PERSISTENCE) state |= HAD_PERSISTENCE;
  if (flags.n_saturated > 0) state |= PARTLY_SATURATED;
  uint32 dq = flags.any & (JUMP_DET | PERSISTENCE);

  double rate;
  if (ramp.n_groups == 1) {
    rate = ramp.sample(0) / times.one_group;
  } else {
    if (state & (FIRST_ONLY | FROM_ZEROFRAME))
      rate = ramp.sample(0) / single_group_time(state, times);
    else
      rate = median_rate(ramp, times.group);
    if (is_nan(rate)) rate = 0.0;
  }

  double slope_sum = 0.0;
  double read_weight = 0.0;
  if (ramp.dq(0) & SATURATED) dq |= DO_NOT_USE | SATURATED;
  if (flags.n_unusable == ramp.n_groups) {
    dq |= DO_NOT_USE;
    if (flags.n_saturated == ramp.n_groups) dq |= SATURATED;
  } else if (!(ramp.dq(0) & SATURATED)) {
    int length = 0;
    auto fit = [&](const Segment& segment) {
      length = segment.length();
      double slope;
      if (length == 1)
        slope = ramp.sample(segment.start) / single_group_time(state, times);
      else if (length == 2)
        slope = (ramp.sample(segment.start + 1) - ramp.sample(segment.start)) / times.group;
      else
        slope = fit_line(ramp, detector, weights, segment, times.group).slope;
      const double variance = read_variance(detector, length, state, times);
      read_weight += 1.0 / variance;
      slope_sum += slope / variance;
    };
    int n_segments = 1;
    if (ramp.is_clean)
      fit(Segment{0, ramp.n_groups});
    else
      n_segments = each_segment([&](int group) { return ramp.dq(group); }, ramp.n_groups, fit);
    if (n_segments > 0) state |= FITTED;
    if (n_segments == 1 && length < LONGEST_IN_STATE) state |= ONE_SEGMENT | uint32(length) << LENGTH_SHIFT;
  }
  return {rate, slope_sum, read_weight, state, dq};
}

// The products of one integration, and its weights in the rate: the sum of 1 / variance by the signal, and that by read
// noise where groups flagged for charge migration count as good.
struct RampProducts {
  double rate;
  double poisson;
  double read;
  double error;
  double poisson_weight;
  double restored_weight;
  uint32 state;
  uint32 dq;
};

// Finish the products of a ramp from its fit; `fit.dq` includes the flags of the pixel. `original`, flags before those of
// charge migration, may be null. `signal` is the mean of the median rates of all integrations.
__device__ inline RampProducts weigh_ramp(const Ramp& ramp, const uint8* original, const RampFit& fit,
                                          const Detector& detector, const Times& times, double signal, double dark) {
  uint32 state = fit.state;
  uint32 dq = fit.dq;
  double poisson_weight = 0.0;
  double slope = 0.0;
  double poisson = 0.0;
  double read = 0.0;
  double error = 0.0;
  if (state & FITTED) {
    double total_weight = 0.0;
    auto weigh = [&](const Segment& segment) {
      const double of_signal = poisson_variance(detector, segment.length(), state, signal, dark, times);
      if (of_signal > 0.0) poisson_weight += 1.0 / of_signal;
      total_weight += 1.0 / (of_signal + read_variance(detector, segment.length(), state, times));
    };
    if (state & ONE_SEGMENT)
      weigh(Segment{0, int(state >> LENGTH_SHIFT)});
    else
      each_segment([&](int group) { return ramp.dq(group); }, ramp.n_groups, weigh);
    if (poisson_weight > 0.0) poisson = drop_large(1.0 / poisson_weight);
    read = drop_large(1.0 / fit.read_weight);
    if (dq & UNUSABLE) {
      poisson = read = 0.0;
    } else {
      slope = fit.slope_sum * read;
      const double variance = 1.0 / total_weight;
      error = variance > LARGE_VARIANCE ? 0.0 : sqrt(variance);
    }
  }
  if (dq & UNUSABLE) slope = double_nan();
  if (dq & SATURATED) state |= ALL_SATURATED;
  if (state & PARTLY_SATURATED) dq |= SATURATED;

  double restored = 0.0;
  if (original) {
    if (state & LOST_CHARGE) {
      auto flags_of = [&](int group) {
        const uint32 flags = original[group * ramp.stride];
        return flags & CHARGELOSS ? flags ^ (CHARGELOSS | DO_NOT_USE) : flags;
      };
      each_segment(flags_of, ramp.n_groups, [&](const Segment& segment) {
        const double variance = read_variance(detector, segment.length(), state, times);
        if (variance > 0.0) restored += 1.0 / variance;
      });
      read = drop_large(1.0 / restored);
    } else if (read > 0.0) {
      restored = 1.0 / read;
    }
  }
  return {slope, poisson, read, error, poisson_weight, restored, state, dq};
}

constexpr double SQRT_2 = 1.41421356;  // with the digits of stcal

// Where the optional product of a ramp is written: its first segment, pedestal and first jump.
struct SegmentProducts {
  float* segments;  // the slope; other values and segments are `values_apart` and `stride` further
  float* pedestal;
  float* jumps;  // the next ones are `stride` further
  int64 values_apart;
  int64 stride;
  int most_segments, most_jumps;
  double pedestal_frames;  // groups between the start of the ramp and its first group

  // The values of a segment in the order of the product.
  __device__ void put(int number, const Line& line, double poisson, double read) const {
    const double values[] = {line.slope, line.slope_sigma, poisson, read, line.intercept, line.intercept_sigma, 1.0 / read};
    float* to = segments + number * stride;
    for (const double value : values) {
      *to = float(value);
      to += values_apart;
    }
  }
};

// Write the optional product of a ramp that `weigh_ramp` has finished; its state and flags are given.
__device__ inline void write_segments(const Ramp& ramp, const RampFit& fit, uint32 state, uint32 dq, const Detector& detector,
                                      const Weights& weights, const Times& times, double signal, double dark,
                                      const SegmentProducts& products) {
  if (state & HAD_JUMP) {
    Ramp before = ramp;
    before.starts_with_zeroframe = false;
    int n_jumps = 0;
    for (int group = 1; group < ramp.n_groups && n_jumps < products.most_jumps; ++group)
      if (ramp.dq(group) & JUMP_DET)
        products.jumps[n_jumps++ * products.stride] = float(ramp.sample(group) - before.sample(group - 1));
  }
  if (state & FITTED) {
    int number = 0;
    const auto write = [&](const Segment& segment) {
      if (number == products.most_segments) return;
      const int length = segment.length();
      Line line{0.0, 0.0, 0.0, 0.0};
      if (length == 1) {
        line.slope = ramp.sample(segment.start) / single_group_time(state, times);
      } else if (length == 2) {
        const double first = ramp.sample(segment.start), last = ramp.sample(segment.start + 1);
        const double second = segment.start + 1.0;
        line.slope = (last - first) / times.group;
        line.slope_sigma = line.intercept_sigma = SQRT_2 * detector.read_noise;
        line.intercept = last * (1.0 - second) + first * second;
      } else {
        line = fit_line(ramp, detector, weights, segment, times.group);
      }
      products.put(number++, line, poisson_variance(detector, length, state, signal, dark, times),
                   read_variance(detector, length, state, times));
    };
    each_segment([&](int group) { return ramp.dq(group); }, ramp.n_groups, write);
  }
  double pedestal = 0.0;
  if (!(state & ALL_SATURATED) && !(dq & DO_NOT_USE)) {
    const double slope = state & FITTED ? fit.slope_sum * drop_large(1.0 / fit.read_weight) : 0.0;
    // stcal takes the slope per second, as if a group lasted a second
    pedestal = ramp.sample(0) - slope * products.pedestal_frames;
    if (is_nan(pedestal)) pedestal = 0.0;
  }
  *products.pedestal = float(pedestal);
}

}  // namespace gpucoron
