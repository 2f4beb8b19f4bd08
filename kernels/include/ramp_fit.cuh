// Fit of one pixel's ramp in one integration by optimally weighted least squares of segments, as in stcal's OLS_C.
//
// Source: Robberto 2008, JWST-STScI-0001490; Fixsen et al. 2000, PASP 112, 1350 (weights); Offenberg et al. 2001.
// Samples are DN, times seconds, and everything is float64, in the order of operations of the C source.
#pragma once

#include "lanes.cuh"
#include "order_statistics.cuh"
#include "ramp.cuh"

namespace gpucoron {

constexpr double LARGE_VARIANCE = 1e6;  // (DN/s)^2; larger variances are written as 0

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

// The weights for a segment that rises by `rise` DN, before division by the squared read noise.
__device__ inline const float* weights_of_rise(const Weights& weights, const Detector& detector, int length, double rise) {
  const double noise_variance = detector.read_noise * detector.read_noise;
  const double variance = noise_variance + rise * detector.gain;
  double signal_to_noise = 0.0;
  if (!(variance <= 0.0 || detector.gain == 0.0)) {
    signal_to_noise = rise * detector.gain / sqrt(variance);
    if (signal_to_noise < 0.0) signal_to_noise = 0.0;
  }
  return weights.of(length, weight_class(signal_to_noise));
}

// The weighted sums of a line; samples are added in the order of time.
struct LineSums {
  double w = 0.0, x = 0.0, xx = 0.0, y = 0.0, xy = 0.0;

  __device__ void add(int group, double sample, double weight) {
    const double at = group;
    const double weighted_x = at * weight;
    w += weight;
    x += weighted_x;
    xx += at * weighted_x;
    y += sample * weight;
    xy += sample * weighted_x;
  }

  __device__ Line line(double group_time) const {
    const double inverse_determinant = 1.0 / (w * xx - x * x);
    return {(w * xy - x * y) * inverse_determinant / group_time, sqrt(w * inverse_determinant),
            (xx * y - x * xy) * inverse_determinant, sqrt(xx * inverse_determinant)};
  }
};

// The line through a segment of three groups or more.
__device__ inline Line fit_line(const Ramp& ramp, const Detector& detector, const Weights& weights, const Segment& segment,
                                double group_time) {
  const double rise = ramp.sample(segment.stop - 1) - ramp.sample(segment.start);
  const float* const first = weights_of_rise(weights, detector, segment.length(), rise);
  const double inverse_variance = 1.0 / (detector.read_noise * detector.read_noise);
  LineSums sums;
  for (int group = segment.start; group < segment.stop; ++group) {
    const double sample = ramp.sample(group);
    const double weight = Weights::at(first, group - segment.start, segment.length()) * inverse_variance;
    sums.add(group, is_nan(sample) ? 0.0 : sample, weight);
  }
  return sums.line(group_time);
}

// The median of a series of at most `capacity` values, by streaming it; `count` is the number of them without NaN.
struct StreamedMedian {
  template <class Scan>
  __device__ double operator()(const Scan& streamed, int capacity, int& count) const {
    const auto& values = keep<double>(streamed, capacity);
    const Survey<double> all = survey<double, Lanes<1>>(values);
    count = all.count;
    return median_of_ranks<double, Lanes<1>>(values, 0, all.count, all.low, all.high);
  }
};

// Median of the good differences of a ramp, DN/s; the first sample's rate if no difference is good; else NaN.
template <class Median>
__device__ inline double median_rate(const Ramp& ramp, double group_time, const Median& median) {
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
  int count = 0;
  const double found = median(streamed, ramp.n_groups - 1, count);
  return count == 0 ? rate_of(0) : found;
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
  TWO_SEGMENTS = 1u << 9,    // exactly two, with their lengths in the halves of the upper bits
};
constexpr int LENGTH_SHIFT = 12, HALF_OF_LENGTHS = (32 - LENGTH_SHIFT) / 2;
constexpr int LONGEST_IN_STATE = 1 << (32 - LENGTH_SHIFT), LONGEST_IN_HALF = 1 << HALF_OF_LENGTHS;

// The state of a fitted ramp, with the lengths of its last two segments if there are no others.
__device__ inline uint32 state_of_segments(int n_segments, int before, int last) {
  if (n_segments == 1 && last < LONGEST_IN_STATE) return FITTED | ONE_SEGMENT | uint32(last) << LENGTH_SHIFT;
  if (n_segments == 2 && before < LONGEST_IN_HALF && last < LONGEST_IN_HALF)
    return FITTED | TWO_SEGMENTS | (uint32(before) << HALF_OF_LENGTHS | uint32(last)) << LENGTH_SHIFT;
  return n_segments > 0 ? FITTED : 0u;
}

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
template <class AnyRamp, class Median = StreamedMedian>
__device__ inline RampFit fit_ramp(AnyRamp ramp, const Detector& detector, const Weights& weights, const Times& times,
                                   const float* zeroframe, bool suppress_one_group, const Median& median = Median()) {
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
      rate = median_rate(ramp, times.group, median);
    if (is_nan(rate)) rate = 0.0;
  }

  double slope_sum = 0.0;
  double read_weight = 0.0;
  if (ramp.dq(0) & SATURATED) dq |= DO_NOT_USE | SATURATED;
  if (flags.n_unusable == ramp.n_groups) {
    dq |= DO_NOT_USE;
    if (flags.n_saturated == ramp.n_groups) dq |= SATURATED;
  } else if (!(ramp.dq(0) & SATURATED)) {
    int before = 0, length = 0;
    typename AnyRamp::Flags found(ramp);
    auto fit = [&](const Segment& segment) {
      before = length;
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
      n_segments = each_segment([&](int group) { return found.dq(group); }, ramp.n_groups, fit);
    state |= state_of_segments(n_segments, before, length);
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
template <class AnyRamp>
__device__ inline RampProducts weigh_ramp(const AnyRamp& ramp, const uint8* original, const RampFit& fit,
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
    const uint32 lengths = state >> LENGTH_SHIFT;
    if (state & (ONE_SEGMENT | TWO_SEGMENTS)) {
      if (state & TWO_SEGMENTS) weigh(Segment{0, int(lengths >> HALF_OF_LENGTHS)});
      weigh(Segment{0, int(lengths % (state & TWO_SEGMENTS ? LONGEST_IN_HALF : LONGEST_IN_STATE))});
    } else {
      typename AnyRamp::Flags flags(ramp);
      each_segment([&](int group) { return flags.dq(group); }, ramp.n_groups, weigh);
    }
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

// The rate of a pixel from all integrations.
struct PixelRate {
  double rate;
  double poisson;
  double read;
  double error;
  uint32 dq;
};

// Sums over a pixel's integrations, in their order.
struct RateSums {
  double slope = 0.0, poisson = 0.0, read = 0.0, restored = 0.0;
  int n_unused = 0, n_saturated = 0;
  uint32 any = 0;

  __device__ void add(const RampFit& fit, const RampProducts& products) {
    any |= products.state;
    n_unused += (products.dq & DO_NOT_USE) != 0;
    n_saturated += (products.state & ALL_SATURATED) != 0;
    if (products.poisson_weight > 0.0) poisson += products.poisson_weight;
    read += fit.read_weight;
    slope += fit.slope_sum;
    restored += products.restored_weight;
  }

  // dq: flags of the pixel. restores: whether `restored` counts where charge was lost.
  __device__ PixelRate rate(uint32 dq, int n_ints, bool restores) const {
    if (any & HAD_JUMP) dq |= JUMP_DET;
    if (any & HAD_PERSISTENCE) dq |= PERSISTENCE;
    if (n_unused == n_ints) dq |= DO_NOT_USE;
    if (n_saturated == n_ints) dq |= SATURATED;

    PixelRate found{slope, poisson, read, 0.0, dq};
    if (found.poisson > 0.0) found.poisson = 1.0 / found.poisson;
    if (found.poisson >= LARGE_VARIANCE || found.poisson < 0.0) found.poisson = 0.0;
    if (found.read > 0.0) found.read = 1.0 / found.read;
    found.read = drop_large(found.read);
    found.error = sqrt(found.poisson + found.read);
    if (dq & UNUSABLE) {
      found.rate = double_nan();
      found.poisson = found.read = found.error = 0.0;
    }
    if (!is_nan(found.rate)) found.rate *= found.read;
    if (restores && (any & LOST_CHARGE)) {
      if (restored > 0.0) found.read = 1.0 / restored;
      found.read = drop_large(found.read);
    }
    if (any & PARTLY_SATURATED) found.dq |= SATURATED;
    return found;
  }
};

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
template <class AnyRamp>
__device__ inline void write_segments(const AnyRamp& ramp, const RampFit& fit, uint32 state, uint32 dq,
                                      const Detector& detector, const Weights& weights, const Times& times, double signal,
                                      double dark, const SegmentProducts& products) {
  if (state & HAD_JUMP) {
    AnyRamp before = ramp;
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
    typename AnyRamp::Flags flags(ramp);
    each_segment([&](int group) { return flags.dq(group); }, ramp.n_groups, write);
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
