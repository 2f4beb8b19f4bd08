// Correction of the non-linear response, in place.
#include "linearity.cuh"

namespace gpucoron {

// grid: pixels x frames (any number of blocks along y). Saturated groups are not changed.
template <int N>
__global__ void correct_polynomial(float* data, const uint8* groupdq, const float* coeffs, int n_coeffs, int64 n_frames,
                                   int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const Polynomial<N> polynomial(coeffs, n_coeffs, n_pixels, pixel);
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const int64 at = frame * n_pixels + pixel;
    const float corrected = polynomial(data[at]);
    if (!(groupdq[at] & SATURATED)) data[at] = corrected;
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
