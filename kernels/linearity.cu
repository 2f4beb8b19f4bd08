// Correction of the non-linear response, in place.
#include "linearity.cuh"

namespace gpucoron {

// Frames of a thread that are loaded together; one would wait for the next.
constexpr int AT_ONCE = 4;

// A thread keeps the coefficients of its pixel for many frames. Saturated groups are not changed.
// grid: pixels x parts of the frames.
template <int N>
__global__ void correct_polynomial(float* data, const uint8* groupdq, const float* coeffs, int n_coeffs, int64 n_frames,
                                   int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const Polynomial<N> polynomial(coeffs, n_coeffs, n_pixels, pixel);
  for (int64 first = int64(blockIdx.y) * AT_ONCE; first < n_frames; first += int64(gridDim.y) * AT_ONCE) {
    float* const samples = data + first * n_pixels + pixel;
    const uint8* const flags = groupdq + first * n_pixels + pixel;
    const int n = int(smaller(int64(AT_ONCE), n_frames - first));
    float values[AT_ONCE];
    uint8 dq[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      values[i] = i < n ? samples[i * n_pixels] : 0.0f;
      dq[i] = i < n ? flags[i * n_pixels] : uint8(SATURATED);
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i)
      if (!(dq[i] & SATURATED)) samples[i * n_pixels] = polynomial(values[i]);
  }
}

// grid: pixels x integrations. Both polynomials have N coefficients, or N is 0.
template <int N>
__global__ void correct_reads(float* data, const uint8* groupdq, const float* coeffs, const float* inverse_coeffs,
                              int n_coeffs, int n_inverse, int n_ints, int n_groups, int64 n_pixels, int n_frames) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const Polynomial<N> forward(coeffs, n_coeffs, n_pixels, pixel);
  const Polynomial<N> inverse(inverse_coeffs, n_inverse, n_pixels, pixel);
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = integration * n_groups * n_pixels + pixel;
    correct_reads_of_ramp(data + start, groupdq + start, forward, inverse, n_groups, n_pixels, n_frames);
  }
}

}  // namespace gpucoron
