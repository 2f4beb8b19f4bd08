// EMI correction. Launches: measure_scatter; sum_quads; match_bins, sum_bins; subtract_emicorr.
#include "emicorr.cuh"

namespace gpucoron {

// Compute the standard deviation over the groups of each ramp. scatter : (nints, ny, nx). grid: pixels x integrations.
__global__ void measure_scatter(const float* data, float* scatter, int n_ints, int n_groups, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const float* ramp = data + int64(integration) * n_groups * n_pixels + pixel;
    float mean = ramp[0];
    for (int group = 1; group < n_groups; ++group) mean += ramp[group * n_pixels];
    mean /= float(n_groups);
    float squares = 0.0f;
    for (int group = 0; group < n_groups; ++group) {
      const float residual = ramp[group * n_pixels] - mean;
      squares += residual * residual;
    }
    scatter[int64(integration) * n_pixels + pixel] = sqrtf(squares / float(n_groups));
  }
}

// Sum each frame's good pixels by bin. order : the numbers of the included quads, sorted by bin; starts : start of each bin
// in `order`, (n_bins + 1). sums : (nints, ngroups, n_bins), counts : (nints, n_bins). grid: bins x frames.
__global__ void sum_quads(const float* data, const uint8* good, const int* order, const int* starts, double* sums,
                          double* counts, int n_ints, int n_groups, int64 n_pixels, int n_bins) {
  const int64 bin = thread_pixel();
  if (bin >= n_bins) return;
  const int64 n_frames = int64(n_ints) * n_groups;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const int64 integration = frame / n_groups;
    double sum = 0.0;
    int count = 0;
    for (int n = starts[bin]; n < starts[bin + 1]; ++n) {
      const float* values = data + frame * n_pixels + 4 * int64(order[n]);
      const uint8* counted = good + integration * n_pixels + 4 * int64(order[n]);
      double of_quad[4];
      for (int k = 0; k < 4; ++k) {
        of_quad[k] = counted[k] ? double(values[k]) : 0.0;
        count += counted[k];
      }
      sum += (of_quad[0] + of_quad[1]) + (of_quad[2] + of_quad[3]);
    }
    sums[frame * n_bins + bin] = sum;
    if (frame % n_groups == 0) counts[integration * n_bins + bin] = count;
  }
}

// Compute each bin's contribution to the terms of chi-square, for up to INTS integrations. bin_phases : (ngroups, n_bins).
// squared, mixed : (n_ints, n_trials, n_bins). grid: trials and bins.
template <int INTS>
__global__ void match_bins(const double* sums, const double* counts, const double* wave, const double* bin_phases,
                           double* squared, double* mixed, int n_ints, int n_groups, int n_bins, int n_trials,
                           double s_t, double s_tt, double delta) {
  const int64 thread = thread_pixel();
  const int64 n_threads = int64(n_trials) * n_bins;
  if (thread >= n_threads) return;
  const int bin = int(thread % n_bins);
  const double trial = double(thread / n_bins) / n_trials;
  const Wave one_period{wave, n_bins};
  WaveSums of_wave;
  double y[INTS] = {}, ty[INTS] = {}, yz[INTS] = {};
  for (int group = 0; group < n_groups; ++group) {
    const double z = one_period.at(bin_phases[int64(group) * n_bins + bin] + trial);
    of_wave.add(z, group);
#pragma unroll
    for (int n = 0; n < INTS; ++n) {
      if (n >= n_ints) continue;
      const double value = sums[(int64(n) * n_groups + group) * n_bins + bin];
      y[n] += value;
      ty[n] += value * group;
      yz[n] += value * z;
    }
  }
  const LineSums line{double(n_groups), s_t, s_tt, delta};
#pragma unroll
  for (int n = 0; n < INTS; ++n) {
    if (n >= n_ints) continue;
    squared[n * n_threads + thread] = counts[int64(n) * n_bins + bin] * of_wave.squared(line) / delta;
    mixed[n * n_threads + thread] = of_wave.shared(line, y[n], ty[n]) - yz[n];
  }
}

// Sum the contributions of the bins, in order. quadratic, linear : (n_ints, n_trials).
// grid: integrations and trials.
__global__ void sum_bins(const double* squared, const double* mixed, double* quadratic, double* linear, int64 n_rows,
                         int n_bins) {
  const int64 row = thread_pixel();
  if (row >= n_rows) return;
  double square = 0.0, mix = 0.0;
  for (int bin = 0; bin < n_bins; ++bin) {
    square += squared[row * n_bins + bin];
    mix += mixed[row * n_bins + bin];
  }
  quadratic[row] = square;
  linear[row] = 2.0 * mix;
}

// Subtract the wave from every sample. pixel_phases : (ny, nx / 4). grid: quads x frames.
__global__ void subtract_emicorr(float* data, const double* wave, const double* pixel_phases, const double* group_phases,
                              const double* integration_phases, const double* amplitudes, int n_ints, int n_groups,
                              int64 n_quads, int n_bins) {
  const int64 quad = thread_pixel();
  if (quad >= n_quads) return;
  const Wave one_period{wave, n_bins};
  const double phase = pixel_phases[quad];
  const int64 n_frames = int64(n_ints) * n_groups;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const int64 integration = frame / n_groups;
    const double x = phase + group_phases[frame % n_groups] + integration_phases[integration];
    const double value = one_period.at(x) * amplitudes[integration];
    float* samples = data + 4 * (frame * n_quads + quad);
    for (int k = 0; k < 4; ++k) samples[k] = float(double(samples[k]) - value);
  }
}

}  // namespace gpucoron
