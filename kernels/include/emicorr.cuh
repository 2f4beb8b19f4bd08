// EMI correction: one period of a wave in cubic pieces, and the sums for a fit of a straight line and the wave.
#pragma once

#include "types.cuh"

namespace gpucoron {

// pieces : (4, n_bins + 1); the first and the last piece are half as long, in x from 0 to 1.
struct Wave {
  const double* pieces;
  int n_bins;

  __device__ double at(double x) const {
    const double place = (x - floor(x)) * n_bins + 0.5;
    const int piece = int(place);
    const double f = place - piece;
    double value = coefficient(3, piece);
    for (int power = 2; power >= 0; --power) value = value * f + coefficient(power, piece);
    return value;
  }

 private:
  __device__ double coefficient(int power, int piece) const { return pieces[power * (n_bins + 1) + piece]; }
};

// Sums over the groups t = 0, 1, ... for the fit of a line: of t, of t^2, and their determinant.
struct LineSums {
  double n_groups;
  double t;
  double tt;
  double delta;
};

// Sums for a wave z: of z, of t z, of z^2.
struct WaveSums {
  double z = 0.0;
  double tz = 0.0;
  double zz = 0.0;

  __device__ void add(double value, double time) {
    z += value;
    tz += time * value;
    zz += value * value;
  }

  // The quadratic term of chi-square for one pixel, before division by the determinant.
  __device__ double squared(const LineSums& s) const {
    return -s.tt * z * z + 2.0 * s.t * z * tz - s.n_groups * tz * tz + zz * s.delta;
  }

  // The part of the product of wave and data that the line absorbs; y and ty are sums of the data.
  __device__ double shared(const LineSums& s, double y, double ty) const {
    return (s.tt * z * y - s.t * tz * y - s.t * z * ty + s.n_groups * tz * ty) / s.delta;
  }
};

}  // namespace gpucoron
