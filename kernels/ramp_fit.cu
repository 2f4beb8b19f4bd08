// Ramp fitting. Launches: fit_integrations, fit_listed, finish_products, write_optional.
//
// Slopes do not depend on the Poisson variance, so only the first kernels read the samples: one fits the ramps that are a
// single segment, which are most, and lists the others for the next one. The variances need the median rate of all
// integrations; they are computed from the flags, or from a word per ramp if it has one or two segments.
#include "distant_ramp.cuh"
#include "whole_ramps.cuh"

namespace gpucoron {

// Fit the slopes of whole ramps and find their median rates; list the other ramps.
//
// median_rates, slope_sums, read_weights : (nints, ny, nx) float64, the latter two sums over the segments of
// slope / variance and 1 / variance (read noise). states : (nints, ny, nx). dq : (nints, ny, nx), see pixel flags.
// listed : indices into (nints, ny, nx), of which the first n_listed are filled in. frames_apart: frames between the first
// groups of two integrations, in data and flags. weights: see Weights. SHORT: at most MOST_SORTED + 1 groups.
// groups_per_second: 1 / group_time. grid: ramps.
template <bool SHORT>
__global__ void fit_integrations(const float* data, const uint8* groupdq, const uint32* pixeldq, const float* gain,
                                 const float* readnoise, const float* weights, double* median_rates, double* slope_sums,
                                 double* read_weights, uint32* states, uint32* dq, uint32* listed, uint32* n_listed,
                                 int n_ints, int n_groups, int64 frames_apart, int64 n_pixels, double group_time,
                                 double frame_time, double one_group_time, double noise_divisor, double groups_per_second) {
  GPUCORON_SLICES uint32 shared[NumberSlice::words_of(SHORT ? MOST_SORTED : NumberSlice::CAPACITY)];
  const int64 at = thread_pixel();
  if (at >= n_ints * n_pixels) return;
  const uint32 integration = uint32(at) / uint32(n_pixels);
  const int64 pixel = at - integration * n_pixels;
  const int64 start = integration * frames_apart * n_pixels + pixel;
  const Detector detector = detector_of(gain, readnoise, pixel, noise_divisor);
  const WholeRamp ramp = WholeRamp::find(data + start, groupdq + start, n_pixels, n_groups);
  RampFit fit;
  if (!fit_whole_ramp<SHORT>(ramp, NumberSlice(shared), detector, Weights{weights}, Times{group_time, frame_time, one_group_time},
                             SampleDivisor{group_time, groups_per_second}, fit)) {
    listed[atomicAdd(n_listed, 1u)] = uint32(at);
    return;
  }
  median_rates[at] = fit.median_rate;
  slope_sums[at] = fit.slope_sum;
  read_weights[at] = fit.read_weight;
  states[at] = fit.state;
  dq[at] = pixeldq[pixel] | flags_of_gain(detector);
}

// Fit the listed ramps. grid: any.
__global__ void fit_listed(const float* data, const uint8* groupdq, const uint32* pixeldq, const float* gain,
                           const float* readnoise, const float* zeroframe, const float* weights, const uint32* listed,
                           const uint32* n_listed, double* median_rates, double* slope_sums, double* read_weights,
                           uint32* states, uint32* dq, int n_groups, int64 frames_apart, int64 n_pixels, double group_time,
                           double frame_time, double one_group_time, double noise_divisor, int suppress_one_group) {
  GPUCORON_SLICES uint32 shared[NumberSlice::words_of(NumberSlice::CAPACITY)];
  const NumberSlice slice(shared);
  const auto median = [&](const auto& values, int, int& count) { return median_in_slice(values, slice, count); };
  const Times times{group_time, frame_time, one_group_time};

  for (int64 number = thread_pixel(); number < int64(*n_listed); number += int64(gridDim.x) * blockDim.x) {
    const int64 at = listed[number];
    const int64 integration = at / n_pixels, pixel = at % n_pixels;
    const int64 start = integration * frames_apart * n_pixels + pixel;
    const Detector detector = detector_of(gain, readnoise, pixel, noise_divisor);
    const DistantRamp ramp{{data + start, groupdq + start, n_pixels, n_groups, false, false, 0.0f}};
    const float* const first_frame = zeroframe ? zeroframe + at : nullptr;
    const RampFit fit = fit_ramp(ramp, detector, Weights{weights}, times, first_frame, suppress_one_group, median);
    median_rates[at] = fit.median_rate;
    slope_sums[at] = fit.slope_sum;
    read_weights[at] = fit.read_weight;
    states[at] = fit.state;
    dq[at] = pixeldq[pixel] | flags_of_gain(detector) | fit.dq;
  }
}

// Finish the products of each integration, and combine the integrations into the rate.
//
// signal : (ny, nx) float64, the mean of the median rates, DN/s; may be null. states become those that write_optional needs.
// With `original_groupdq`, groups flagged for charge migration count as good in the variance by read noise. grid: pixels.
__global__ void finish_products(const uint8* groupdq, const uint8* original_groupdq, const uint32* pixeldq,
                                const float* gain, const float* readnoise, const float* dark_current,
                                const double* median_rates, const double* slope_sums, const double* read_weights,
                                uint32* states, double* signal, float* rate_ints, uint32* dq_ints, float* var_poisson_ints,
                                float* var_rnoise_ints, float* err_ints, float* rate, uint32* dq, float* var_poisson,
                                float* var_rnoise, float* err, int n_ints, int n_groups, int64 frames_apart,
                                int64 n_pixels, double group_time, double frame_time, double one_group_time,
                                double noise_divisor) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const Times times{group_time, frame_time, one_group_time};
  const Detector detector = detector_of(gain, readnoise, pixel, noise_divisor);
  const double dark = dark_current ? dark_current[pixel] : 0.0f;
  double mean = 0.0;
  for (int integration = 0; integration < n_ints; ++integration) mean += median_rates[integration * n_pixels + pixel];
  mean /= n_ints;
  if (signal) signal[pixel] = mean;

  RateSums sums;
  for (int integration = 0; integration < n_ints; ++integration) {
    const int64 start = integration * frames_apart * n_pixels + pixel;
    const int64 at = int64(integration) * n_pixels + pixel;
    const RampFit fit{0.0, slope_sums[at], read_weights[at], states[at], dq_ints[at]};
    const bool by_zeroframe = (fit.state & FROM_ZEROFRAME) != 0;
    const DistantRamp ramp{{nullptr, groupdq + start, n_pixels, n_groups, false, by_zeroframe, 0.0f}};
    const uint8* const original = original_groupdq ? original_groupdq + start : nullptr;
    const RampProducts products = weigh_ramp(ramp, original, fit, detector, times, mean, dark);
    sums.add(fit, products);
    if (products.state != fit.state) states[at] = products.state;
    rate_ints[at] = float(products.rate);
    dq_ints[at] = products.dq;
    var_poisson_ints[at] = float(products.poisson);
    var_rnoise_ints[at] = float(products.read);
    err_ints[at] = float(products.error);
  }
  const PixelRate found = sums.rate(pixeldq[pixel] | flags_of_gain(detector), n_ints, original_groupdq != nullptr);
  rate[pixel] = float(found.rate);
  dq[pixel] = found.dq;
  var_poisson[pixel] = float(found.poisson);
  var_rnoise[pixel] = float(found.read);
  err[pixel] = float(found.error);
}

// Write the optional product: after finish_products, whose states and flags are read.
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
    const DistantRamp ramp{{data + start, groupdq + start, n_pixels, n_groups, false, by_zeroframe, first_frame}};
    const SegmentProducts products{segments + int64(integration) * most_segments * n_pixels + pixel, pedestal + at,
                                   jumps + int64(integration) * most_jumps * n_pixels + pixel,
                                   int64(n_ints) * most_segments * n_pixels, n_pixels, most_segments, most_jumps,
                                   pedestal_frames};
    write_segments(ramp, fit, fit.state, fit.dq, detector, Weights{weights}, times, signal[pixel], dark, products);
  }
}

}  // namespace gpucoron
