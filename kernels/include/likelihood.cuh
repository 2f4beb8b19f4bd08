// A ramp fitted by likelihood (Brandt 2024, PASP 136, 045004): one sweep up its differences for the rate, one down for the
// variances. The covariance of the differences is tridiagonal; elimination needs no pivots and cannot overflow.
//
// Sweeps store intermediate results in scratch memory, one column per thread. Each thread fits one ramp after the other, so
// the size of the scratch memory does not depend on the exposure. `n` is the number of differences.
#pragma once

#include "lanes.cuh"
#include "order_statistics.cuh"

namespace gpucoron {

// Coefficients of the covariance, the same for all ramps: rows of a table (16, n) float64. Off-diagonals (beta) couple a
// difference to the next one; their last column is unused. Coefficients of the same pattern of reads have the same kind and
// the same rounding.
struct Covariance {
  const double* table;
  int n;
  int n_alphas;  // kinds
  int n_betas;

  __device__ double row(int number, int i) const { return table[int64(number) * n + i]; }
  __device__ double delta_t(int i) const { return row(0, i); }
  __device__ double alpha(int i, double photons, double noise) const { return photons * row(1, i) + noise * row(2, i); }
  __device__ double beta(int i, double photons, double noise) const { return photons * row(3, i) + noise * row(4, i); }
  // Coefficients of the kind, used in the elimination as in the definition.
  __device__ double alpha_photon(int i) const { return row(5, i); }
  __device__ double alpha_read(int i) const { return row(6, i); }
  __device__ double beta_photon(int i) const { return row(7, i); }
  __device__ double beta_read(int i) const { return row(8, i); }
  // 1 if the resultant between a difference and the next one has several reads, so that a jump within it affects both.
  __device__ double pair_is_spoiled(int i) const { return row(9, i); }
  __device__ int alpha_kind(int i) const { return int(row(10, i)); }
  __device__ int beta_kind(int i) const { return int(row(11, i)); }
};

// Rows of the table with the coefficients of the kinds.
constexpr int ALPHA_PHOTON_OF_KIND = 12;
constexpr int ALPHA_READ_OF_KIND = 13;
constexpr int BETA_PHOTON_OF_KIND = 14;
constexpr int BETA_READ_OF_KIND = 15;

// Variants of the algorithm as bits of one number; see Rules in operations/likelihood/jumps.py.
constexpr int GUESS_FROM_USED = 1;
constexpr int SCALE_FROM_USED = 2;
constexpr int PAIRS_NEED_GAIN = 4;
constexpr int SETTLES_TIES = 8;
constexpr int REJECT_JUMPS = 16;

// The columns of one thread: five rows of n + 1 numbers, and a word for 32 differences.
struct Scratch {
  double* numbers;  // pointers to the thread's first elements
  uint32* words;
  int64 n_threads;
  int n;

  __device__ double& at(int row, int i) const { return numbers[(int64(row) * (n + 1) + i) * n_threads]; }
  __device__ bool is_used(int i) const { return words[i / WORD_GROUPS * n_threads] >> (i % WORD_GROUPS) & 1u; }
  __device__ double used(int i) const { return is_used(i) ? 1.0 : 0.0; }
  __device__ void leave_out(int i) const { words[i / WORD_GROUPS * n_threads] &= ~(1u << (i % WORD_GROUPS)); }

  __device__ int count() const {
    int number = 0;
    for (int i = 0; i < n; ++i) number += is_used(i);
    return number;
  }

  // Mark the usable differences of the source.
  template <class Source>
  __device__ void use(const Source& source) const {
    for (int word = 0; word < words_of(n); ++word) {
      uint32 bits = 0;
      const int first = word * WORD_GROUPS;
      for (int i = first; i < smaller(first + WORD_GROUPS, n); ++i) bits |= uint32(source.may_use(i)) << (i - first);
      words[word * n_threads] = bits;
    }
  }
};

// Given differences, in electrons per second, so that the gain is one.
struct GivenDifferences {
  const double* diffs;  // pointers to the ramp's first elements
  const uint8* diffs2use;
  int64 n_ramps;

  __device__ double difference(int i) const { return diffs[i * n_ramps]; }
  __device__ bool may_use(int i) const { return !diffs2use || diffs2use[i * n_ramps]; }
};

// Differences of neighbouring groups of a ramp, counts per second. With ZEROFRAME, the first read is a separate group, and
// the rest of the first group is the second one.
struct GroupDifferences {
  const float* data;  // pointers to the pixel's first group
  const uint8* groupdq;
  int64 n_pixels;
  Covariance covariance;
  uint32 unusable;
  bool has_zeroframe;
  float zeroframe;
  float other_reads;

  __device__ float group(int k) const {
    if (!has_zeroframe) return data[k * n_pixels];
    return k == 0 ? zeroframe : k == 1 ? other_reads : data[(k - 1) * n_pixels];
  }
  __device__ bool is_good(int k) const {
    return !(groupdq[(has_zeroframe ? larger(k - 1, 0) : k) * n_pixels] & unusable);
  }
  __device__ double difference(int i) const { return double(group(i + 1) - group(i)) / covariance.delta_t(i); }
  __device__ bool may_use(int i) const { return is_good(i) && is_good(i + 1); }
};

// A ramp, its noise (counts), and its used differences.
template <class Source>
struct NoisyRamp {
  Source source;
  Covariance covariance;
  Scratch scratch;
  double gain;
  double noise;  // variance of a single read
  double dark;

  __device__ int n() const { return covariance.n; }
};

// Chi-square at rate a is A - 2 a B + a^2 C.
struct ChiSquare {
  double A = 0.0;
  double B = 0.0;
  double C = 0.0;
};

struct LikelihoodResult {
  double countrate;
  double uncert;
  double chisq;
  double var_poisson;
  double var_rdnoise;
};

// Rows of the scratch memory: results of the elimination, and sums by kind.
constexpr int LOWER = 0;
constexpr int ONES = 1;
constexpr int SQUARES = 2;
constexpr int PRODUCTS = 3;

// Sweep up the differences with C = L D L^T: the sums are those of squares of L^-1 d and L^-1 1 over D. With KEEP, L and
// L^-1 1 over D are stored in the scratch memory.
template <bool KEEP, class Source>
__device__ ChiSquare eliminate(const NoisyRamp<Source>& ramp, double photons) {
  const Covariance& covariance = ramp.covariance;
  ChiSquare sums;
  double inverse = 0.0, y = 0.0, u = 0.0, kept_before = 0.0;
  for (int i = 0; i < ramp.n(); ++i) {
    const double kept = ramp.scratch.used(i);
    const double value = ramp.source.difference(i) * kept;
    double diagonal = photons * covariance.alpha_photon(i) + ramp.noise * covariance.alpha_read(i);
    if (i == 0) {
      y = value;
      u = kept;
    } else {
      const double beta = photons * covariance.beta_photon(i - 1) + ramp.noise * covariance.beta_read(i - 1);
      const double beside = beta * kept * kept_before;
      const double lower = beside * inverse;
      diagonal = diagonal - beside * lower;
      y = value - y * lower;
      u = kept - u * lower;
      if (KEEP) ramp.scratch.at(LOWER, i) = lower;
    }
    inverse = 1.0 / diagonal;
    kept_before = kept;
    const double signal = y * inverse;
    const double ones = u * inverse;
    if (KEEP) ramp.scratch.at(ONES, i) = ones;
    sums.A += signal * y;
    sums.B += signal * u;
    sums.C += ones * u;
  }
  return sums;
}

__device__ inline bool is_odd_noise(double photons, double noise) {
  return photons < 0.0 || noise <= 0.0 || (photons - photons != 0.0 && !is_nan(photons));
}

// Sums by kind of coefficient. Most ramps have one kind, whose sum is in a register; others are in the scratch memory. Loops
// over kinds are short, and unrolling them would need too many registers.
class SumsByKind {
 public:
  __device__ SumsByKind(const Scratch& scratch, int row, int n_kinds) : scratch(scratch), row(row), n_kinds(n_kinds) {
#pragma unroll 1
    for (int number = 1; number < n_kinds; ++number) scratch.at(row, number) = 0.0;
  }

  __device__ void add(int number, double value) {
    if (number != kind) {
      scratch.at(row, kind) = sum;
      sum = scratch.at(row, number);
      kind = number;
    }
    sum += value;
  }

  // The sum over kinds, weighted with a row of coefficients.
  __device__ double total(const Covariance& covariance, int coefficients) const {
    double weighed = 0.0;
#pragma unroll 1
    for (int number = 0; number < n_kinds; ++number)
      weighed += covariance.row(coefficients, number) * (number == kind ? sum : scratch.at(row, number));
    return weighed;
  }

 private:
  const Scratch& scratch;
  int row;
  int n_kinds;
  int kind = 0;
  double sum = 0.0;
};

// Fit with the covariance for a rate; see Brandt's equations 51 to 53 for the variances.
template <class Source>
__device__ LikelihoodResult fit_proper(const NoisyRamp<Source>& ramp, double photons) {
  const Covariance& covariance = ramp.covariance;
  const ChiSquare sums = eliminate<true>(ramp, photons);
  SumsByKind squares(ramp.scratch, SQUARES, covariance.n_alphas), products(ramp.scratch, PRODUCTS, covariance.n_betas);
  // The weights of the differences times C.
  double weight_above = 0.0;
  for (int i = ramp.n() - 1; i >= 0; --i) {
    double weight = ramp.scratch.at(ONES, i);
    if (i + 1 < ramp.n()) {
      weight -= ramp.scratch.at(LOWER, i + 1) * weight_above;
      products.add(covariance.beta_kind(i), weight_above * weight);
    }
    squares.add(covariance.alpha_kind(i), weight * weight);
    weight_above = weight;
  }
  const double per_photon =
      squares.total(covariance, ALPHA_PHOTON_OF_KIND) + 2.0 * products.total(covariance, BETA_PHOTON_OF_KIND);
  const double per_read =
      squares.total(covariance, ALPHA_READ_OF_KIND) + 2.0 * products.total(covariance, BETA_READ_OF_KIND);
  const double inverse = 1.0 / sums.C;
  const double rate = sums.B * inverse;
  return {rate, sqrt(inverse), sums.A - sums.B * rate, photons * per_photon * inverse * inverse,
          ramp.noise * per_read * inverse * inverse};
}

// The median of all or of the used differences, at least 0; NaN if any is NaN.
template <class Source>
__device__ double guess_rate(const NoisyRamp<Source>& ramp, bool from_used) {
  using Alone = Lanes<1>;
  auto scan_all = [&](auto visit) {
    for (int i = 0; i < ramp.n(); ++i) visit(ramp.source.difference(i));
  };
  auto scan_used = [&](auto visit) {
    for (int i = 0; i < ramp.n(); ++i)
      if (ramp.scratch.is_used(i)) visit(ramp.source.difference(i));
  };
  const Survey<double> all = survey<double, Alone>(scan_all);
  if (all.count < ramp.n()) return double_nan();
  double median;
  if (from_used)
    median = median_of<double, Alone>(scan_used);
  else
    median = median_of_ranks<double, Alone>(scan_all, 0, all.count, all.low, all.high);
  return median * (median > 0.0 ? 1.0 : 0.0);
}

// The mean of the used differences.
template <class Source>
__device__ double mean_rate(const NoisyRamp<Source>& ramp) {
  double sum = 0.0;
  for (int i = 0; i < ramp.n(); ++i) sum += ramp.source.difference(i) * ramp.scratch.used(i);
  return sum / ramp.scratch.count();
}

}  // namespace gpucoron
