// Correction of the non-linear response, in place, on a CPU, for neighbouring pixels together.
#include "cpu/wide.hpp"

namespace gpucoron {

// A thread processes a strip of pixels frame by frame, while their coefficients stay in its cache. N is the number of
// coefficients, 0 any. Saturated groups are not changed. grid: strips, along y.
template <int N>
__global__ void correct_strips(float* __restrict__ data, const uint8* __restrict__ groupdq, const float* __restrict__ coeffs,
                               int n_coeffs, int64 n_frames, int64 n_pixels, int64 strip) {
  constexpr int PIXELS = 16, FRAMES_AHEAD = 2;
  using Floats = Wide<float, PIXELS>;
  const int length = N > 0 ? N : n_coeffs;
  for (int64 first = blockIdx.y * strip; first < n_pixels; first += gridDim.y * strip) {
    const int64 stop = smaller(first + strip, n_pixels);
    for (int64 frame = 0; frame < n_frames; ++frame) {
      const uint8* const flags = groupdq + frame * n_pixels;
      const auto correct = [&](int64 pixel, auto n) {
        float* const values = data + frame * n_pixels + pixel;
        prefetch(values + FRAMES_AHEAD * n_pixels);
        prefetch(flags + pixel + FRAMES_AHEAD * n_pixels);
        const auto coefficient = [&](int power) { return load<Floats>(coeffs + power * n_pixels + pixel, n); };
        const Floats value = load<Floats>(values, n);
        // Horner's scheme.
        Floats result = coefficient(length - 1) * value;
        for (int power = length - 2; power > 0; --power) {
          result += coefficient(power);
          result *= value;
        }
        result += coefficient(0);
        const auto saturated = load<Wide<uint8, PIXELS>>(flags + pixel, n) & uint8(SATURATED);
        store(convert<Wide<int, PIXELS>>(saturated) != 0 ? value : result, values, n);
      };
      int64 pixel = first;
      for (; pixel + PIXELS <= stop; pixel += PIXELS) correct(pixel, std::integral_constant<int, PIXELS>{});
      if (pixel < stop) correct(pixel, int(stop - pixel));
    }
  }
}

}  // namespace gpucoron
