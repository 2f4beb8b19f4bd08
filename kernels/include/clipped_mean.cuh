// Sums in the order of NumPy, and a mean after sigma clipping, as scipy.stats.sigmaclip and jwst compute it.
#pragma once

#include "types.cuh"

namespace gpucoron {

// Add `term(0) ... term(n - 1)` in float32 in the order of NumPy's pairwise summation: the values are halved until at most
// 128 are left, which eight sums share. n must be less than 2^24.
template <class Term>
__device__ float add_pairwise(const Term& term, int n) {
  constexpr int MOST = 128, LEVELS = 16;
  // Sums of the left halves, for the levels at which the present values are in the right half; the last one first.
  float left[LEVELS] = {};
  uint32 path = 0;  // bit d: the half at level d
  for (;;) {
    int first = 0, count = n, level = 0;
    for (; count > MOST; ++level) {
      const int half = count / 2 - count / 2 % 8;
      const bool is_right = path >> level & 1u;
      first += is_right ? half : 0;
      count = is_right ? count - half : half;
    }
    float sum;
    int i = 8;
    if (count < 8) {
      sum = 0.0f;
      i = 0;
    } else {
      float sums[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) sums[k] = term(first + k);
      for (; i + 8 <= count; i += 8)
#pragma unroll
        for (int k = 0; k < 8; ++k) sums[k] += term(first + i + k);
      sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    }
    for (; i < count; ++i) sum += term(first + i);
    // Complete the halves that end here. All indices of `left` are constants, so that it stays in registers.
    for (; level > 0 && path >> (level - 1) & 1u; --level) {
      sum = left[0] + sum;
#pragma unroll
      for (int d = 1; d < LEVELS; ++d) left[d - 1] = left[d];
      path &= ~(1u << (level - 1));
    }
    if (level == 0) return sum;
#pragma unroll
    for (int d = LEVELS - 1; d > 0; --d) left[d] = left[d - 1];
    left[0] = sum;
    path |= 1u << (level - 1);
  }
}

// Call `use(i, load(i))` for i below n; several values are loaded before the first is used.
template <class Load, class Use>
__device__ inline void for_batches(int n, const Load& load, const Use& use) {
  constexpr int AT_ONCE = 8;
  for (int first = 0; first < n; first += AT_ONCE) {
    float values[AT_ONCE];
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) values[k] = first + k < n ? load(first + k) : 0.0f;
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k)
      if (first + k < n) use(first + k, values[k]);
  }
}

// Return the mean of n values after clipping at `siglimit` standard deviations until no value is left out; NaN if none
// remains. The values are changed. `apart` is the distance from one to the next. Equal values are their own mean.
__device__ inline float clipped_mean(float* values, int n, int64 apart, float siglimit) {
  const float first = values[0];
  bool are_equal = is_finite(first);
#pragma unroll 8
  for (int i = 1; i < n; ++i) are_equal &= values[i * apart] == first;
  if (are_equal) return first;
  while (n > 0) {
    const float mean = add_pairwise([&](int i) { return values[i * apart]; }, n) / float(n);
    const auto square = [&](int i) {
      const float distance = values[i * apart] - mean;
      return distance * distance;
    };
    const float reach = sqrt(add_pairwise(square, n) / float(n)) * siglimit;
    const float least = mean - reach, most = mean + reach;
    int left = 0;
    for_batches(
        n, [&](int i) { return values[i * apart]; },
        [&](int, float value) {
          if (value >= least && value <= most) values[left++ * apart] = value;
        });
    if (left == n) return mean;
    n = left;
  }
  return float_nan();
}

}  // namespace gpucoron
