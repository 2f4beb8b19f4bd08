// EMI correction on a CPU: neighbouring pixels, or neighbouring quads of four pixels, are processed together. Launches:
// measure_scatter_strips; sum_quads_strips; subtract_emicorr_strips.
#include "emicorr.cuh"
#include "cpu/wide.hpp"

namespace gpucoron {

// Most pixels of a strip whose ramps are processed together; quads of a strip.
constexpr int MOST_STRIP_PIXELS = 1024;
constexpr int STRIP_QUADS = 64;
// Groups whose quads are summed at the same time, because each sum of a group waits for the previous one.
constexpr int GROUPS_AT_ONCE = 8;

using Doubles = Wide<double, 8>;
using Floats = Wide<float, 8>;
constexpr int QUADS = WIDTH_OF<Doubles>;

// Call act(quad, n_some) for each vector of quads; the number is a constant except for the last, shorter one.
template <class Act>
inline void over_vectors(int n, const Act& act) {
  int quad = 0;
  for (; quad + QUADS <= n; quad += QUADS) act(quad, std::integral_constant<int, QUADS>{});
  if (quad < n) act(quad, n - quad);
}

// The pixels of `n_some` quads are four vectors; return how many are in vector k.
inline int pixels_of_part(int k, int n_some) { return smaller(larger(4 * n_some - QUADS * k, 0), QUADS); }

// Compute the standard deviation over the groups of each ramp. scatter : (nints, ny, nx). A strip is read twice; the second
// time it is in the cache. grid: strips of all integrations, along y.
__global__ void measure_scatter_strips(const float* __restrict__ data, float* __restrict__ scatter, int n_ints, int n_groups,
                                       int64 n_pixels, int64 strip) {
  alignas(64) float means[MOST_STRIP_PIXELS], squares[MOST_STRIP_PIXELS];
  const int64 n_strips = (n_pixels + strip - 1) / strip;
  for (int64 number = blockIdx.y; number < n_strips * n_ints; number += gridDim.y) {
    const int64 first = number % n_strips * strip, integration = number / n_strips;
    const int n = int(smaller(strip, n_pixels - first));
    const float* const ramps = data + integration * n_groups * n_pixels + first;
    for (int at = threadIdx.x; at < n; at += blockDim.x) means[at] = ramps[at];
    for (int group = 1; group < n_groups; ++group) {
      const float* const values = ramps + group * n_pixels;
      for (int at = threadIdx.x; at < n; at += blockDim.x) means[at] += values[at];
    }
    for (int at = threadIdx.x; at < n; at += blockDim.x) {
      means[at] /= float(n_groups);
      squares[at] = 0.0f;
    }
    for (int group = 0; group < n_groups; ++group) {
      const float* const values = ramps + group * n_pixels;
      for (int at = threadIdx.x; at < n; at += blockDim.x) {
        const float residual = values[at] - means[at];
        squares[at] += residual * residual;
      }
    }
    float* const out = scatter + integration * n_pixels + first;
    for (int at = threadIdx.x; at < n; at += blockDim.x) out[at] = sqrtf(squares[at] / float(n_groups));
  }
}

// Sum each frame's good pixels by bin, quad by quad. bins : (n_quads); quads to exclude have a bin of their own. sums :
// (nints, ngroups, n_bins), counts : (nints, n_bins). grid: some groups of an integration, along y.
__global__ void sum_quads_strips(const float* __restrict__ data, const uint8* __restrict__ good, const int* __restrict__ bins,
                                 double* __restrict__ sums, double* __restrict__ counts, int n_ints, int n_groups,
                                 int64 n_quads, int n_bins) {
  alignas(64) float weights[4 * STRIP_QUADS];
  alignas(64) double pixels[4 * STRIP_QUADS], of_quads[GROUPS_AT_ONCE][STRIP_QUADS];
  const int n_parts = (n_groups + GROUPS_AT_ONCE - 1) / GROUPS_AT_ONCE;
  for (int64 number = blockIdx.y; number < int64(n_parts) * n_ints; number += gridDim.y) {
    const int64 integration = number / n_parts, group = number % n_parts * GROUPS_AT_ONCE;
    const int n_frames = int(smaller(int64(GROUPS_AT_ONCE), n_groups - group));
    const float* const frames = data + (integration * n_groups + group) * 4 * n_quads;
    const uint8* const counted = good + integration * 4 * n_quads;
    double* const of_frames = sums + (integration * n_groups + group) * n_bins;
    double* const count = counts + integration * n_bins;
    std::fill(of_frames, of_frames + int64(n_frames) * n_bins, 0.0);
    for (int64 first = 0; first < n_quads; first += STRIP_QUADS) {
      const int n = int(smaller(int64(STRIP_QUADS), n_quads - first));
      const int* const places = bins + first;
      for (int at = threadIdx.x; at < 4 * n; at += blockDim.x) weights[at] = counted[4 * first + at];
      for (int frame = 0; frame < n_frames; ++frame) {
        const float* const values = frames + 4 * (frame * n_quads + first);
        prefetch(values + 4 * n, 4 * int(smaller(int64(STRIP_QUADS), n_quads - first - n)));
        for (int at = threadIdx.x; at < 4 * n; at += blockDim.x) pixels[at] = values[at] * weights[at];
        for (int quad = 0; quad < n; quad += QUADS) {
          Doubles parts[4];
          for (int k = 0; k < 4; ++k) parts[k] = load<Doubles>(pixels + 4 * quad + QUADS * k);
          store(pair_sums(pair_sums(parts[0], parts[1]), pair_sums(parts[2], parts[3])), of_quads[frame] + quad);
        }
      }
      const auto add = [&](auto n_added) {
        for (int quad = 0; quad < n; ++quad)
          for (int frame = 0; frame < n_added; ++frame)
            of_frames[int64(frame) * n_bins + places[quad]] += of_quads[frame][quad];
      };
      // With a constant number the loop over frames is unrolled.
      if (n_frames == GROUPS_AT_ONCE)
        add(std::integral_constant<int, GROUPS_AT_ONCE>{});
      else
        add(n_frames);
      if (group > 0) continue;
      if (first == 0) std::fill(count, count + n_bins, 0.0);
      for (int quad = 0; quad < n; ++quad)
        for (int k = 0; k < 4; ++k) count[places[quad]] += weights[4 * quad + k];
    }
  }
}

// Subtract the wave from every sample. pieces : (n_bins + 1, 4), a row for each cubic piece; pixel_phases : (ny, nx / 4).
// grid: frames, along y.
__global__ void subtract_emicorr_strips(float* __restrict__ data, const double* __restrict__ pieces,
                                        const double* __restrict__ pixel_phases, const double* __restrict__ group_phases,
                                        const double* __restrict__ integration_phases, const double* __restrict__ amplitudes,
                                        int n_ints, int n_groups, int64 n_quads, int n_bins) {
  alignas(64) int starts[STRIP_QUADS];
  alignas(64) double fractions[STRIP_QUADS];
  for (int64 frame = blockIdx.y; frame < int64(n_ints) * n_groups; frame += gridDim.y) {
    const int64 integration = frame / n_groups;
    const double group_phase = group_phases[frame % n_groups], integration_phase = integration_phases[integration];
    const double amplitude = amplitudes[integration];
    for (int64 first = 0; first < n_quads; first += STRIP_QUADS) {
      const int n = int(smaller(int64(STRIP_QUADS), n_quads - first));
      const double* const phases = pixel_phases + first;
      float* const samples = data + 4 * (frame * n_quads + first);
      for (int quad = threadIdx.x; quad < n; quad += blockDim.x) {
        const double x = phases[quad] + group_phase + integration_phase;
        const double place = (x - floor(x)) * n_bins + 0.5;
        const double whole = floor(place);
        fractions[quad] = place - whole;
        // NaN counts as the first piece.
        const double piece = whole > 0.0 ? whole : 0.0;
        starts[quad] = int(4.0 * (piece < n_bins ? piece : n_bins));
      }
      for (int quad = n; quad < STRIP_QUADS && quad % QUADS > 0; ++quad) starts[quad] = 0;
      over_vectors(n, [&](int quad, auto n_some) {
        Doubles coefficients[4];
        load_columns(pieces, starts + quad, coefficients);
        const Doubles f = load<Doubles>(fractions + quad);
        Doubles wave = coefficients[3];
        for (int power = 2; power >= 0; --power) wave = wave * f + coefficients[power];
        wave *= amplitude;
        const auto subtract = [&](int k, Doubles of_pixels) {
          float* const at = samples + 4 * quad + QUADS * k;
          const int n_pixels = pixels_of_part(k, n_some);
          store(convert<Floats>(convert<Doubles>(load<Floats>(at, n_pixels)) - of_pixels), at, n_pixels);
        };
        subtract(0, picked<0, 0, 0, 0, 1, 1, 1, 1>(wave, wave));
        subtract(1, picked<2, 2, 2, 2, 3, 3, 3, 3>(wave, wave));
        subtract(2, picked<4, 4, 4, 4, 5, 5, 5, 5>(wave, wave));
        subtract(3, picked<6, 6, 6, 6, 7, 7, 7, 7>(wave, wave));
      });
    }
  }
}

}  // namespace gpucoron
