// Polynomials of the linearity correction (WFC3 Data Handbook, section 6.5), as in stcal's linearity_correction.
#pragma once

#include "types.cuh"

namespace gpucoron {

// One pixel's polynomial. For a compile-time length the coefficients are in registers; N = 0 is any length.
template <int N>
struct Polynomial {
  float c[N];

  __device__ Polynomial(const float* coeffs, int, int64 n_pixels, int64 pixel) {
#pragma unroll
    for (int power = 0; power < N; ++power) c[power] = coeffs[power * n_pixels + pixel];
  }

  // Horner's scheme in the type of the argument.
  template <class Real>
  __device__ Real operator()(Real x) const {
    Real result = Real(c[N - 1]) * x;
#pragma unroll
    for (int power = N - 2; power > 0; --power) {
      result += Real(c[power]);
      result *= x;
    }
    return result + Real(c[0]);
  }
};

template <>
struct Polynomial<0> {
  const float* c;
  int n;
  int64 stride;

  __device__ Polynomial(const float* coeffs, int n_coeffs, int64 n_pixels, int64 pixel)
      : c(coeffs + pixel), n(n_coeffs), stride(n_pixels) {}

  template <class Real>
  __device__ Real operator()(Real x) const {
    Real result = Real(c[(n - 1) * stride]) * x;
    for (int power = n - 2; power > 0; --power) {
      result += Real(c[power * stride]);
      result *= x;
    }
    return result + Real(c[0]);
  }
};

// Correct one integration's ramp, each group as the mean of `n_frames` reads, in float64.
//
// The reads are predicted from the first and the last good group, made non-linear by `inverse`, shifted to the group's
// value, corrected one by one and averaged. `data` and `groupdq` point at the ramp's first group.
template <class Forward, class Inverse>
__device__ void correct_reads_of_ramp(float* data, const uint8* groupdq, const Forward& forward, const Inverse& inverse,
                                      int n_groups, int64 n_pixels, int n_frames) {
  int n_unsaturated = 0;
  for (int group = 0; group < n_groups; ++group) n_unsaturated += !(groupdq[group * n_pixels] & SATURATED);
  // The last unsaturated group may be partially saturated, so the ramp ends one group earlier.
  const int last = larger(n_unsaturated - 1, 2) - 1;

  const float first_raw = data[0];
  const float last_raw = data[last * n_pixels];
  const float first = (groupdq[0] & SATURATED) ? first_raw : forward(first_raw);
  const float end = (groupdq[last * n_pixels] & SATURATED) ? last_raw : forward(last_raw);
  const double first_read = (n_frames + 1) / 2.0;  // the mean read number of the first group
  const double last_read = last * double(n_frames) + first_read;
  const double rate = double(end - first) / (last_read - first_read);

  for (int group = 0; group < n_groups; ++group) {
    if (groupdq[group * n_pixels] & SATURATED) continue;
    const int before = group * n_frames + 1;
    double predicted = 0.0;
    for (int read = 0; read < n_frames; ++read) predicted += inverse(double(first) + rate * (before + read - first_read));
    const double shift = double(data[group * n_pixels]) - predicted / n_frames;
    double corrected = 0.0;
    for (int read = 0; read < n_frames; ++read)
      corrected += forward(inverse(double(first) + rate * (before + read - first_read)) + shift);
    data[group * n_pixels] = float(corrected / n_frames);
  }
}

}  // namespace gpucoron
