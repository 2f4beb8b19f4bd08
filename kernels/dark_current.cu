// Frames of a reference (dark, reset anomaly, superbias), subtracted from the groups of all integrations.
#include "dark_current.cuh"

namespace gpucoron {

// Samples of a thread that are loaded together.
constexpr int AT_ONCE = 4;

// Group g loses the mean of `n_averaged` frames from `g * spacing` on, rounded to float32 if `is_rounded`.
//
// A thread computes it once, for a pixel and a group, and subtracts it from its part of the integrations. BEYOND: frames
// beyond the last one are needed. frames_apart : frames from one integration to the next. grid: pixels x parts of groups.
template <bool BEYOND>
__global__ void subtract_frames(float* data, const float* frames, const double* mean, const double* slope,
                                const double* center, int n_ints, int n_groups, int64 frames_apart, int64 n_pixels,
                                int n_frames, int n_averaged, int spacing, int is_rounded, int n_parts) {
  using Real = typename Sum<BEYOND>::Real;
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const bool has_line = BEYOND && mean;
  const ReferencePixel<BEYOND> reference{frames + pixel,
                                       has_line ? mean + pixel : nullptr,
                                       has_line ? slope + pixel : nullptr,
                                       has_line ? center + pixel : nullptr,
                                       n_frames,
                                       n_pixels};
  const int64 apart = frames_apart * n_pixels;
  for (int64 piece = blockIdx.y; piece < int64(n_groups) * n_parts; piece += gridDim.y) {
    const int group = int(piece / n_parts), part = int(piece % n_parts);
    const int stop = int(int64(n_ints) * (part + 1) / n_parts);
    int integration = int(int64(n_ints) * part / n_parts);
    Real value = reference.mean_of(group * spacing, n_averaged);
    if (is_rounded) value = Real(float(value));
    float* sample = data + integration * apart + group * n_pixels + pixel;
    for (; integration + AT_ONCE <= stop; integration += AT_ONCE, sample += AT_ONCE * apart) {
      float samples[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) samples[i] = sample[i * apart];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) sample[i * apart] = float(Real(samples[i]) - value);
    }
    for (; integration < stop; ++integration, sample += apart) *sample = float(Real(*sample) - value);
  }
}

}  // namespace gpucoron
