// Correction of the non-linear response, in place, on a CPU: loops over pixels become vector instructions.
#include "linearity.cuh"

namespace gpucoron {

// A thread processes a strip of pixels frame by frame, while their coefficients stay in its cache. Saturated groups are not
// changed. grid: strips, along y.
template <int N>
__global__ void correct_strips(float* __restrict__ data, const uint8* __restrict__ groupdq, const float* __restrict__ coeffs,
                               int n_coeffs, int64 n_frames, int64 n_pixels, int64 strip) {
  for (int64 first = blockIdx.y * strip; first < n_pixels; first += gridDim.y * strip) {
    const int64 n = smaller(strip, n_pixels - first);
    for (int64 frame = 0; frame < n_frames; ++frame) {
      float* const values = data + frame * n_pixels + first;
      const uint8* const flags = groupdq + frame * n_pixels + first;
      for (int64 pixel = threadIdx.x; pixel < n; pixel += blockDim.x) {
        const float value = values[pixel];
        const float corrected = Polynomial<N>(coeffs + first, n_coeffs, n_pixels, pixel)(value);
        values[pixel] = (flags[pixel] & SATURATED) ? value : corrected;
      }
    }
  }
}

}  // namespace gpucoron
