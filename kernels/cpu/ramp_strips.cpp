// Ramps of one segment: the slowest part of NumPy's ramp fit. One launch: fit_whole_ramps. Loops are over
// neighbouring ramps, so that they become vector instructions.
#include "ramp_fit.cuh"

namespace gpucoron {

// As in the launcher.
constexpr int MOST_PLANES = 64;
constexpr int N_CLASSES = 6;
// Ramps that are processed together.
constexpr int STRIP = 64;

// Fit the slopes and find the median rates of ramps without flags.
//
// samples : (n_groups, n_ints, n_pixels), DN; gain, readnoise : (n_pixels); weights : (n_groups, N_CLASSES), by weight_class;
// comparisons : pairs that sort the median of n_groups - 1 differences to the middle. slopes, medians : (n_ints, n_pixels),
// DN/s. `first` is the number of the first group. grid: strips of all integrations, along y.
__global__ void fit_whole_ramps(const double* __restrict__ samples, const double* __restrict__ gain,
                                const double* __restrict__ readnoise, const double* __restrict__ weights,
                                const int* __restrict__ comparisons, double* __restrict__ slopes,
                                double* __restrict__ medians, int n_groups, int first, int n_comparisons, int n_ints,
                                int64 n_pixels, double group_time) {
  __shared__ double planes[MOST_PLANES][STRIP];
  __shared__ double sum_w[STRIP], sum_x[STRIP], sum_y[STRIP], sum_xy[STRIP], sum_xx[STRIP];
  __shared__ double inverse_variance[STRIP], rate[STRIP];
  __shared__ int64 classes[STRIP];
  const int64 n_ramps = n_ints * n_pixels;
  const int64 n_strips = (n_pixels + STRIP - 1) / STRIP;
  const int middle = (n_groups - 2) / 2, other_middle = (n_groups - 1) / 2;
  for (int64 strip = blockIdx.y; strip < n_strips * n_ints; strip += gridDim.y) {
    const int64 pixel = strip % n_strips * STRIP;
    const int n = int(smaller(int64(STRIP), n_pixels - pixel));
    const double* const start = samples + strip / n_strips * n_pixels + pixel;
    const double* const last = start + (n_groups - 1) * n_ramps;
    GPUCORON_VECTORS
    for (int at = threadIdx.x; at < n; at += blockDim.x) {
      const double noise_variance = readnoise[pixel + at] * readnoise[pixel + at];
      const double signal = (last[at] - start[at]) * gain[pixel + at];
      const double variance = noise_variance + signal;
      const double ratio = signal / sqrt(variance);
      const double signal_to_noise = (variance <= 0.0) | (gain[pixel + at] == 0.0) ? 0.0 : ratio;
      // As in weight_class; NaN is in the last class.
      classes[at] = int64(!(signal_to_noise < 5.0)) + int64(!(signal_to_noise < 10.0)) + int64(!(signal_to_noise < 20.0)) +
                    int64(!(signal_to_noise < 50.0)) + int64(!(signal_to_noise < 100.0));
      inverse_variance[at] = 1.0 / noise_variance;
      // With -0.0 as the start, a first summand of -0.0 keeps its sign.
      sum_w[at] = sum_x[at] = sum_y[at] = sum_xy[at] = sum_xx[at] = -0.0;
      rate[at] = start[at] / group_time;
    }
    for (int group = 0; group < n_groups; ++group) {
      const double* const values = start + group * n_ramps;
      const double* const of_class = weights + group * N_CLASSES;
      const double number = first + group;
      GPUCORON_VECTORS
      for (int at = threadIdx.x; at < n; at += blockDim.x) {
        const double weight = of_class[classes[at]] * inverse_variance[at];
        const double weighted_x = weight * number;
        sum_w[at] += weight;
        sum_x[at] += weighted_x;
        sum_y[at] += weight * values[at];
        sum_xy[at] += weighted_x * values[at];
        sum_xx[at] += weighted_x * number;
      }
      if (group == 0) continue;
      double* const differences = planes[group - 1];
      GPUCORON_VECTORS
      for (int at = threadIdx.x; at < n; at += blockDim.x) {
        const double next = values[at] / group_time;
        differences[at] = next - rate[at];
        rate[at] = next;
      }
    }
    for (int number = 0; number < n_comparisons; ++number) {
      double* const low = planes[comparisons[2 * number]];
      double* const high = planes[comparisons[2 * number + 1]];
      GPUCORON_VECTORS
      for (int at = threadIdx.x; at < n; at += blockDim.x) {
        const double a = low[at], b = high[at];
        low[at] = smaller(a, b);
        high[at] = larger(a, b);
      }
    }
    double* const slope = slopes + strip / n_strips * n_pixels + pixel;
    double* const median = medians + strip / n_strips * n_pixels + pixel;
    GPUCORON_VECTORS
    for (int at = threadIdx.x; at < n; at += blockDim.x) {
      const double inverse_determinant = 1.0 / (sum_w[at] * sum_xx[at] - sum_x[at] * sum_x[at]);
      slope[at] = (sum_w[at] * sum_xy[at] - sum_x[at] * sum_y[at]) * inverse_determinant / group_time;
      median[at] = (planes[middle][at] + planes[other_middle][at]) / 2.0;
    }
  }
}

}  // namespace gpucoron
