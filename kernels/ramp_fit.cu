// Ramp fitting. Launches: fit_integrations, average_median_rates, weigh_integrations, write_optional, combine_integrations.
//
// Slopes do not depend on the Poisson variance, so only the first kernel reads the samples. The variances need the median
// rate of all integrations; they are computed from the flags, or from a word per ramp if it is one segment.
#include "ramp_fit.cuh"

namespace gpucoron {

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
    const Ramp ramp{data + start, groupdq + start, n_pixels, n_groups, false, false, 0.0f};
    const float* const first_frame = zeroframe ? zeroframe + at : nullptr;
    const RampFit fit = fit_ramp(ramp, detector, Weights{weights}, times, first_frame, suppress_one_group);
    median_rates[at] = fit.median_rate;
    slope_sums[at] = fit.slope_sum;
    read_weights[at] = fit.read_weight;
    states[at] = fit.state;
    dq[at] = pixeldq[pixel] | bad_gain | fit.dq;
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
    const RampFit fit{0.0, slope_sums[at], read_weights[at], states[at], dq[at]};
    const Ramp ramp{nullptr, groupdq + start, n_pixels, n_groups, false, (fit.state & FROM_ZEROFRAME) != 0, 0.0f};
    const uint8* const original = original_groupdq ? original_groupdq + start : nullptr;
    const RampProducts products = weigh_ramp(ramp, original, fit, detector, times, signal[pixel], dark);
    if (original) restored_weights[at] = products.restored_weight;
    poisson_weights[at] = products.poisson_weight;
    states[at] = products.state;
    rate[at] = float(products.rate);
    dq[at] = products.dq;
    var_poisson[at] = float(products.poisson);
    var_rnoise[at] = float(products.read);
    err[at] = float(products.error);
  }
}

// Write the optional product: after weigh_integrations, whose states and flags are read.
//
// segments : (7 * nints, nsegments, ny, nx), pedestal : (nints, ny, nx), jumps : (nints, njumps, ny, nx), all zeros.
// grid: pixels x integrations.
__global__ void write_optional(const float* data, const uint8* groupdq, const float* gain, const float* readnoise,
                               const float* dark_current, const float* zeroframe, const float* weights, const double* signal,
                               const double* slope_sums, const double* read_weights, const uint32* states, const uint32* dq,
                               float* segments, float* pedestal, float* jumps, int most_segments, int most_jumps, int n_ints,
                               int n_groups, int64 frames_apart, int64 n_pixels, double group_time, double frame_time,
                               double one_group_time, double noise_divisor, double pedestal_frames) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const Times times{group_time, frame_time, one_group_time};
  const Detector detector = detector_of(gain, readnoise, pixel, noise_divisor);
  const double dark = dark_current ? dark_current[pixel] : 0.0f;

  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = integration * frames_apart * n_pixels + pixel;
    const int64 at = int64(integration) * n_pixels + pixel;
    const RampFit fit{0.0, slope_sums[at], read_weights[at], states[at], dq[at]};
    const bool by_zeroframe = (fit.state & FROM_ZEROFRAME) != 0;
    const float first_frame = by_zeroframe ? zeroframe[at] : 0.0f;
    const Ramp ramp{data + start, groupdq + start, n_pixels, n_groups, false, by_zeroframe, first_frame};
    const SegmentProducts products{segments + int64(integration) * most_segments * n_pixels + pixel, pedestal + at,
                                   jumps + int64(integration) * most_jumps * n_pixels + pixel,
                                   int64(n_ints) * most_segments * n_pixels, n_pixels, most_segments, most_jumps,
                                   pedestal_frames};
    write_segments(ramp, fit, fit.state, fit.dq, detector, Weights{weights}, times, signal[pixel], dark, products);
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
