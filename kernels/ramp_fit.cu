// Ramp fitting. Launches: fit_integrations, average_median_rates, weigh_integrations, combine_integrations.
//
// Slopes do not depend on the Poisson variance, so only the first kernel reads the samples. The variances need the median
// rate of all integrations; they are computed from the flags, or from a word per ramp if it is one segment.
#include "ramp_fit.cuh"

namespace gpucoron {

__device__ inline Detector detector_of(const float* gain, const float* readnoise, int64 pixel, double noise_divisor) {
  return {gain[pixel], float(double(readnoise[pixel]) * (double(gain[pixel]) / noise_divisor))};
}

// Fit the slopes of one ramp and find its median rate.
//
// median_rates, slope_sums, read_weights : (nints, ny, nx) float64, the latter two sums over the segments of
// slope / variance and 1 / variance (read noise). states : (nints, ny, nx). dq : (nints, ny, nx), see pixel flags.
// frames_apart: frames between the first groups of two integrations, in data and flags. weights: see Weights.
// grid: pixels x integrations.
__global__ void fit_integrations(const float* data, const uint8* groupdq, const uint32* pixeldq, const float* gain,
                                 const float* readnoise, const float* zeroframe, const float* weights, double* median_rates,
                                 double* slope_sums, double* read_weights, uint32* states, uint32* dq, int n_ints, int n_groups, int64 frames_apart,
                                 int64 n_pixels, double group_time, double frame_time, double one_group_time, double noise_divisor,
                                 int suppress_one_group) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const Times times{group_time, frame_time, one_group_time};
  const Detector detector = detector_of(gain, readnoise, pixel, noise_divisor);
  const uint32 bad_gain = detector.gain_is_bad() ? DO_NOT_USE | NO_GAIN_VALUE : 0u;

  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = integration * frames_apart * n_pixels + pixel;
    const int64 at = int64(integration) * n_pixels + pixel;
    Ramp ramp{data + start, groupdq + start, n_pixels, n_groups, false, false, 0.0f};
    RampFlags flags = gather_flags(ramp);
    ramp.is_clean = flags.any == 0;
    uint32 state = 0;
    if (!suppress_one_group) {
      if (flags.n_good == 1 && ramp.dq(0) == 0) {
        state |= FIRST_ONLY;
      } else if (flags.n_good == 0 && zeroframe && zeroframe[at] != 0.0f) {
        state |= FROM_ZEROFRAME;
        ramp.starts_with_zeroframe = true;
        ramp.zeroframe = zeroframe[at];
        --flags.n_unusable;
        if (flags.n_saturated == n_groups) --flags.n_saturated;
      }
    }
    if (flags.any & CHARGELOSS) state |= LOST_CHARGE;
    if (flags.any & JUMP_DET) state |= HAD_JUMP;
    if (flags.any & PERSISTENCE) state |= HAD_PERSISTENCE;
    if (flags.n_saturated > 0) state |= PARTLY_SATURATED;
    uint32 pixel_flags = pixeldq[pixel] | bad_gain | (flags.any & (JUMP_DET | PERSISTENCE));

    double rate;
    if (n_groups == 1) {
      rate = ramp.sample(0) / times.one_group;
    } else {
      if (state & (FIRST_ONLY | FROM_ZEROFRAME))
        rate = ramp.sample(0) / single_group_time(state, times);
      else
        rate = median_rate(ramp, times.group);
      if (is_nan(rate)) rate = 0.0;
    }
    median_rates[at] = rate;

    double slope_sum = 0.0;
    double read_weight = 0.0;
    if (ramp.dq(0) & SATURATED) pixel_flags |= DO_NOT_USE | SATURATED;
    if (flags.n_unusable == n_groups) {
      pixel_flags |= DO_NOT_USE;
      if (flags.n_saturated == n_groups) pixel_flags |= SATURATED;
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
          slope = fit_segment(ramp, detector, Weights{weights}, segment, times.group);
        const double variance = read_variance(detector, length, state, times);
        read_weight += 1.0 / variance;
        slope_sum += slope / variance;
      };
      int n_segments = 1;
      if (ramp.is_clean)
        fit(Segment{0, n_groups});
      else
        n_segments = each_segment([&](int group) { return ramp.dq(group); }, n_groups, fit);
      if (n_segments > 0) state |= FITTED;
      if (n_segments == 1 && length < LONGEST_IN_STATE) state |= ONE_SEGMENT | uint32(length) << LENGTH_SHIFT;
    }
    slope_sums[at] = slope_sum;
    read_weights[at] = read_weight;
    states[at] = state;
    dq[at] = pixel_flags;
  }
}

// Compute the pixel's signal: the mean of its integrations' median rates, DN/s. grid: pixels.
__global__ void average_median_rates(const double* median_rates, double* signal, int n_ints, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  double sum = 0.0;
  for (int integration = 0; integration < n_ints; ++integration) sum += median_rates[integration * n_pixels + pixel];
  signal[pixel] = sum / n_ints;
}

// Finish the products of each integration.
//
// poisson_weights : (nints, ny, nx) float64, sums of 1 / variance. restored_weights, with `original_groupdq`: the weight of
// the integration by read noise, where groups flagged for charge migration count as good.
// grid: pixels x integrations.
__global__ void weigh_integrations(const uint8* groupdq, const uint8* original_groupdq, const float* gain,
                                   const float* readnoise, const float* dark_current, const double* signal,
                                   const double* slope_sums, const double* read_weights, double* poisson_weights,
                                   double* restored_weights, uint32* states, float* rate, uint32* dq, float* var_poisson,
                                   float* var_rnoise, float* err, int n_ints, int n_groups, int64 frames_apart,
                                   int64 n_pixels, double group_time, double frame_time, double one_group_time,
                                   double noise_divisor) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const Times times{group_time, frame_time, one_group_time};
  const Detector detector = detector_of(gain, readnoise, pixel, noise_divisor);
  const double dark = dark_current ? dark_current[pixel] : 0.0f;

  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = integration * frames_apart * n_pixels + pixel;
    const int64 at = int64(integration) * n_pixels + pixel;
    uint32 state = states[at];
    const Ramp ramp{nullptr, groupdq + start, n_pixels, n_groups, false, (state & FROM_ZEROFRAME) != 0, 0.0f};
    uint32 pixel_flags = dq[at];
    double poisson_weight = 0.0;
    double slope = 0.0;
    double poisson = 0.0;
    double read = 0.0;
    double error = 0.0;
    if (state & FITTED) {
      double total_weight = 0.0;
      auto weigh = [&](const Segment& segment) {
        const double of_signal = poisson_variance(detector, segment.length(), state, signal[pixel], dark, times);
        if (of_signal > 0.0) poisson_weight += 1.0 / of_signal;
        total_weight += 1.0 / (of_signal + read_variance(detector, segment.length(), state, times));
      };
      if (state & ONE_SEGMENT)
        weigh(Segment{0, int(state >> LENGTH_SHIFT)});
      else
        each_segment([&](int group) { return ramp.dq(group); }, n_groups, weigh);
      if (poisson_weight > 0.0) poisson = drop_large(1.0 / poisson_weight);
      read = drop_large(1.0 / read_weights[at]);
      if (pixel_flags & UNUSABLE) {
        poisson = read = 0.0;
      } else {
        slope = slope_sums[at] * read;
        const double variance = 1.0 / total_weight;
        error = variance > LARGE_VARIANCE ? 0.0 : sqrt(variance);
      }
    }
    if (pixel_flags & UNUSABLE) slope = double_nan();
    if (pixel_flags & SATURATED) state |= ALL_SATURATED;
    if (state & PARTLY_SATURATED) pixel_flags |= SATURATED;

    if (original_groupdq) {
      double restored = 0.0;
      if (state & LOST_CHARGE) {
        const uint8* original = original_groupdq + start;
        auto flags_of = [&](int group) {
          const uint32 flags = original[group * n_pixels];
          return flags & CHARGELOSS ? flags ^ (CHARGELOSS | DO_NOT_USE) : flags;
        };
        each_segment(flags_of, n_groups, [&](const Segment& segment) {
          const double variance = read_variance(detector, segment.length(), state, times);
          if (variance > 0.0) restored += 1.0 / variance;
        });
        read = drop_large(1.0 / restored);
      } else if (read > 0.0) {
        restored = 1.0 / read;
      }
      restored_weights[at] = restored;
    }
    poisson_weights[at] = poisson_weight;
    states[at] = state;
    rate[at] = float(slope);
    dq[at] = pixel_flags;
    var_poisson[at] = float(poisson);
    var_rnoise[at] = float(read);
    err[at] = float(error);
  }
}

// Combine a pixel's integrations into the rate. `restored_weights` may be null. grid: pixels.
__global__ void combine_integrations(const uint32* pixeldq, const float* gain, const double* slope_sums,
                                     const double* read_weights, const double* poisson_weights,
                                     const double* restored_weights, const uint32* states, const uint32* dq_ints, float* rate,
                                     uint32* dq, float* var_poisson, float* var_rnoise, float* err, int n_ints,
                                     int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const double pixel_gain = gain[pixel];
  uint32 pixel_flags = pixeldq[pixel];
  if (pixel_gain <= 0.0 || is_nan(pixel_gain)) pixel_flags |= DO_NOT_USE | NO_GAIN_VALUE;

  double slope = 0.0, poisson = 0.0, read = 0.0, restored = 0.0;
  int n_unused = 0, n_saturated = 0;
  uint32 any = 0;
  for (int integration = 0; integration < n_ints; ++integration) {
    const int64 at = integration * n_pixels + pixel;
    const uint32 state = states[at];
    any |= state;
    n_unused += (dq_ints[at] & DO_NOT_USE) != 0;
    n_saturated += (state & ALL_SATURATED) != 0;
    if (poisson_weights[at] > 0.0) poisson += poisson_weights[at];
    read += read_weights[at];
    slope += slope_sums[at];
    if (restored_weights) restored += restored_weights[at];
  }
  if (any & HAD_JUMP) pixel_flags |= JUMP_DET;
  if (any & HAD_PERSISTENCE) pixel_flags |= PERSISTENCE;
  if (n_unused == n_ints) pixel_flags |= DO_NOT_USE;
  if (n_saturated == n_ints) pixel_flags |= SATURATED;

  if (poisson > 0.0) poisson = 1.0 / poisson;
  if (poisson >= LARGE_VARIANCE || poisson < 0.0) poisson = 0.0;
  if (read > 0.0) read = 1.0 / read;
  read = drop_large(read);
  double error = sqrt(poisson + read);
  if (pixel_flags & UNUSABLE) {
    slope = double_nan();
    poisson = read = error = 0.0;
  }
  if (!is_nan(slope)) slope *= read;
  if (restored_weights && (any & LOST_CHARGE)) {
    if (restored > 0.0) read = 1.0 / restored;
    read = drop_large(read);
  }
  if (any & PARTLY_SATURATED) pixel_flags |= SATURATED;

  rate[pixel] = float(slope);
  dq[pixel] = pixel_flags;
  var_poisson[pixel] = float(poisson);
  var_rnoise[pixel] = float(read);
  err[pixel] = float(error);
}

}  // namespace gpucoron
