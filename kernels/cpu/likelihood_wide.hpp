// Likelihood fits of neighbouring ramps together, in the order of operations of the NumPy definition
// (operations/likelihood/definition.py): a sweep up the differences for the rate, one down for its variances.
#pragma once

#include <vector>

#include "cpu/wide.hpp"
#include "likelihood_jumps.cuh"

namespace gpucoron {

// Two vectors: a CPU calculates with one while it waits for results of the other.
template <class Vector>
struct Two {
  Vector a, b;
};

using Half = Wide<double, 8>;
using Reals = Two<Half>;
using Masks = Two<decltype(Half{} < Half{})>;
constexpr int TOGETHER = 16;
using Flags = Wide<uint8, TOGETHER>;

template <class Vector>
inline Two<Vector> operator+(const Two<Vector>& x, const Two<Vector>& y) { return {x.a + y.a, x.b + y.b}; }
template <class Vector>
inline Two<Vector> operator-(const Two<Vector>& x, const Two<Vector>& y) { return {x.a - y.a, x.b - y.b}; }
template <class Vector>
inline Two<Vector> operator*(const Two<Vector>& x, const Two<Vector>& y) { return {x.a * y.a, x.b * y.b}; }
template <class Vector>
inline Two<Vector> operator/(const Two<Vector>& x, const Two<Vector>& y) { return {x.a / y.a, x.b / y.b}; }
template <class Vector>
inline Two<Vector> operator&(const Two<Vector>& x, const Two<Vector>& y) { return {x.a & y.a, x.b & y.b}; }
template <class Vector>
inline Two<Vector> operator|(const Two<Vector>& x, const Two<Vector>& y) { return {x.a | y.a, x.b | y.b}; }
template <class Vector>
inline Two<Vector> operator~(const Two<Vector>& x) { return {~x.a, ~x.b}; }
inline Masks operator<(const Reals& x, const Reals& y) { return {x.a < y.a, x.b < y.b}; }
inline Masks operator<=(const Reals& x, const Reals& y) { return {x.a <= y.a, x.b <= y.b}; }
inline Masks operator!=(const Reals& x, const Reals& y) { return {x.a != y.a, x.b != y.b}; }

inline Reals all(double value) { return {all_of<Half>(value), all_of<Half>(value)}; }
inline Reals choose(const Masks& mask, const Reals& x, const Reals& y) {
  return {mask.a ? x.a : y.a, mask.b ? x.b : y.b};
}
inline Reals smaller_of(const Reals& x, const Reals& y) { return {smaller_of(x.a, y.a), smaller_of(x.b, y.b)}; }
inline Reals larger_of(const Reals& x, const Reals& y) { return {larger_of(x.a, y.a), larger_of(x.b, y.b)}; }
inline Reals square_roots(const Reals& x) { return {square_roots(x.a), square_roots(x.b)}; }
inline bool is_any(const Masks& mask) { return is_any(mask.a | mask.b); }

// Load the numbers of neighbours as float64; those beyond `n` are zero.
template <class Value>
inline Reals load_reals(const Value* from, int n = TOGETHER) {
  using Part = Wide<Value, 8>;
  return {convert<Half>(load<Part>(from, smaller(n, 8))), convert<Half>(load<Part>(from + 8, larger(0, n - 8)))};
}

// Flags become integers first, which a CPU converts together.
inline Reals reals_of(const Flags& marks) {
  const auto numbers = convert<Wide<int, TOGETHER>>(marks);
  return load_reals(reinterpret_cast<const int*>(&numbers));
}

template <class Value>
inline void store_reals(const Reals& values, Value* to, int n) {
  using Part = Wide<Value, 8>;
  store(convert<Part>(values.a), to, smaller(n, 8));
  store(convert<Part>(values.b), to + 8, larger(0, n - 8));
}

// Pairs that sort the middle of a number of planes; see operations/ramp_fit/median_network.py.
struct Network {
  const int* comparisons;
  int length;

  template <class Vector>
  void sort(Vector* planes) const {
    for (int number = 0; number < length; ++number) {
      Vector& low = planes[comparisons[2 * number]];
      Vector& high = planes[comparisons[2 * number + 1]];
      const Vector a = low, b = high;
      low = smaller_of(a, b);
      high = larger_of(a, b);
    }
  }
};

// What all ramps share. With an even number of planes, the middle of any number of used differences is found.
struct LikelihoodTask {
  Covariance covariance;
  Network network;       // for all differences
  Network even_network;  // for the next even number of planes
  double threshold_one, threshold_two;
  int max_one_sided, rules;
};

// Arrays of a thread, `n` planes each.
struct RampPlanes {
  int n;
  std::vector<Reals> numbers;
  std::vector<uint8> used;  // 1 or 0
  // of one ramp, see Scratch
  std::vector<double> of_one;
  std::vector<uint32> words;

  void reserve(int n_diffs) {
    if (n == n_diffs && !numbers.empty()) return;
    n = n_diffs;
    numbers.resize(9 * (n + 1));
    used.resize(n * TOGETHER);
    of_one.resize(5 * (n + 1));
    words.resize(words_of(n));
  }
  Reals* plane(int number) { return numbers.data() + number * (n + 1); }
  Flags marks(int i) const { return load<Flags>(used.data() + i * TOGETHER); }
  void mark(int i, const Flags& marks) { store(marks, used.data() + i * TOGETHER); }
};

// Sums by kind of coefficient, as SumsByKind; the current one stays in registers.
class WideSums {
 public:
  WideSums(Reals* others, int n_kinds) : others(others), n_kinds(n_kinds) {
    for (int number = 1; number < n_kinds; ++number) others[number] = all(0.0);
  }

  void add(int number, const Reals& value) {
    if (number != kind) {
      others[kind] = sum;
      sum = others[number];
      kind = number;
    }
    sum = sum + value;
  }

  Reals total(const Covariance& covariance, int coefficients) const {
    Reals weighed = all(0.0);
    for (int number = 0; number < n_kinds; ++number)
      weighed = weighed + all(covariance.row(coefficients, number)) * (number == kind ? sum : others[number]);
    return weighed;
  }

 private:
  Reals* others;
  int n_kinds;
  int kind = 0;
  Reals sum = all(0.0);
};

struct WideChiSquare {
  Reals A, B, C;
};

struct WideResult {
  Reals countrate, uncert, chisq, var_poisson, var_rdnoise;
};

// Neighbouring ramps. MASKED: some differences are not used; `kept` is then 1 for used ones and 0 for others.
template <bool MASKED>
struct WideRamps {
  const LikelihoodTask& task;
  RampPlanes& planes;
  Reals gain, noise, dark;

  int n() const { return planes.n; }
  Reals* diffs() const { return planes.plane(0); }
  Reals* kept() const { return planes.plane(1); }
  Reals* lower() const { return planes.plane(2); }
  Reals* ones() const { return planes.plane(3); }
  Reals* inverses() const { return planes.plane(4); }
  Reals* signals() const { return planes.plane(5); }
  Reals* sorted() const { return planes.plane(6); }

  // The median of all or of the used differences, at least 0; NaN for any NaN.
  Reals guess() const {
    const bool of_used = MASKED && (task.rules & GUESS_FROM_USED);
    const int n_planes = of_used ? n() + n() % 2 : n();
    std::copy(diffs(), diffs() + n(), sorted());
    // An odd number of used differences among an even number of planes has one in the middle.
    const Masks has_two = of_used ? pad_unused(n_planes) : ~Masks{};
    (of_used ? task.even_network : task.network).sort(sorted());
    const Reals low = sorted()[(n_planes - 1) / 2];
    const Reals median = (low + choose(has_two, sorted()[n_planes / 2], low)) / all(2.0);
    Masks is_bad = median != median;
    for (int i = 0; i < n(); ++i) is_bad = is_bad | (diffs()[i] != diffs()[i]);
    return choose(is_bad, all(double_nan()), median * choose(all(0.0) < median, all(1.0), all(0.0)));
  }

  // The mean of the used differences.
  Reals mean() const {
    Reals sum = value(0), number = kept_of(0);
    for (int i = 1; i < n(); ++i) {
      sum = sum + value(i);
      number = number + kept_of(i);
    }
    return sum / number;
  }

  // Sweep up the differences; see eliminate() in likelihood.cuh. Levels of KEEP: 1 for the fit, 2 for the search of jumps.
  template <int KEEP>
  WideChiSquare eliminate(const Reals& photons) const {
    const Covariance& covariance = task.covariance;
    WideChiSquare sums{all(0.0), all(0.0), all(0.0)};
    Reals inverse, y, u, kept_before, diagonal, beta;
    int alpha_kind = -1, beta_kind = -1;
    for (int i = 0; i < n(); ++i) {
      if (covariance.alpha_kind(i) != alpha_kind) {
        alpha_kind = covariance.alpha_kind(i);
        diagonal = photons * all(covariance.alpha_photon(i)) + noise * all(covariance.alpha_read(i));
      }
      const Reals kept = kept_of(i);
      if (i == 0) {
        inverse = all(1.0) / diagonal;
        y = value(0);
        u = kept;
      } else {
        if (covariance.beta_kind(i - 1) != beta_kind) {
          beta_kind = covariance.beta_kind(i - 1);
          beta = photons * all(covariance.beta_photon(i - 1)) + noise * all(covariance.beta_read(i - 1));
        }
        const Reals beside = MASKED ? beta * kept * kept_before : beta;
        const Reals lower_here = beside * inverse;
        inverse = all(1.0) / (diagonal - beside * lower_here);
        y = value(i) - y * lower_here;
        u = kept - u * lower_here;
        if (KEEP) lower()[i] = lower_here;
      }
      kept_before = kept;
      const Reals signal = y * inverse, ones_here = u * inverse;
      if (KEEP) ones()[i] = ones_here;
      if (KEEP == 2) {
        signals()[i] = signal;
        inverses()[i] = inverse;
      }
      sums.A = sums.A + signal * y;
      sums.B = sums.B + signal * u;
      sums.C = sums.C + ones_here * u;
    }
    return sums;
  }

  // Whether rejecting one difference, or two neighbours, may decrease chi-square enough; see _may_lose() in the definition.
  // Products instead of quotients also find all ramps in which a variance is 0 within rounding. After eliminate<2>().
  Masks may_lose(const Reals& rate, const Reals& C) const {
    const Reals one = all(task.threshold_one * (1.0 - MARGIN)), two = all(task.threshold_two * (1.0 - MARGIN));
    const Reals variance = all(1.0) / C;
    const int last = n() - 1;
    Reals x = signals()[last], v = ones()[last], diagonal = inverses()[last];
    Reals residual = x - rate * v, own = diagonal - v * v * variance;
    Masks found = ~(residual * residual < one * own);
    for (int i = last - 1; i >= 0; --i) {
      const Reals above = v, residual_above = residual, own_above = own, lower_above = lower()[i + 1];
      x = signals()[i] - lower_above * x;
      v = ones()[i] - lower_above * v;
      Reals beside = all(0.0) - lower_above * diagonal;
      diagonal = inverses()[i] - lower_above * beside;
      residual = x - rate * v;
      own = diagonal - v * v * variance;
      found = found | ~(residual * residual < one * own);
      if (task.covariance.pair_is_spoiled(i) == 0.0) continue;
      beside = beside - v * above * variance;
      const Reals drop = residual * residual * own_above + residual_above * residual_above * own -
                         all(2.0) * residual * residual_above * beside;
      const Reals determinant = own * own_above - beside * beside;
      const Masks is_pair = all(DEGENERATE) * (own * own_above) < determinant;
      found = found | (is_pair & ~(drop < two * determinant)) | (~is_pair & ~(residual * residual < two * own));
    }
    return found;
  }

  // Fit with the covariance for a rate, and find ramps whose covariance is invalid; see fit_proper() in likelihood.cuh.
  WideResult fit(const Reals& rate_before, Masks& is_odd) const {
    const Covariance& covariance = task.covariance;
    const Reals photons = (rate_before * choose(all(0.0) < rate_before, all(1.0), all(0.0)) + dark) / gain;
    is_odd = lacks_covariance(photons);
    const WideChiSquare sums = eliminate<1>(photons);
    WideSums squares(planes.plane(7), covariance.n_alphas), products(planes.plane(8), covariance.n_betas);
    Reals weight_above = ones()[n() - 1];
    squares.add(covariance.alpha_kind(n() - 1), weight_above * weight_above);
    for (int i = n() - 2; i >= 0; --i) {
      const Reals weight = ones()[i] - lower()[i + 1] * weight_above;
      products.add(covariance.beta_kind(i), weight_above * weight);
      squares.add(covariance.alpha_kind(i), weight * weight);
      weight_above = weight;
    }
    const Reals per_photon =
        squares.total(covariance, ALPHA_PHOTON_OF_KIND) + all(2.0) * products.total(covariance, BETA_PHOTON_OF_KIND);
    const Reals per_read =
        squares.total(covariance, ALPHA_READ_OF_KIND) + all(2.0) * products.total(covariance, BETA_READ_OF_KIND);
    const Reals inverse = all(1.0) / sums.C;
    const Reals rate = sums.B * inverse;
    return {rate, square_roots(inverse), sums.A - sums.B * rate, photons * per_photon * inverse * inverse,
            noise * per_read * inverse * inverse};
  }

  Masks lacks_covariance(const Reals& photons) const {
    const Reals infinity = all(std::numeric_limits<double>::infinity());
    return (photons < all(0.0)) | (noise <= all(0.0)) | (infinity <= photons);
  }

 private:
  Reals kept_of(int i) const { return MASKED ? kept()[i] : all(1.0); }
  Reals value(int i) const { return MASKED ? diffs()[i] * kept()[i] : diffs()[i]; }

  // Replace half of the unused differences by minus infinity, and the others by infinity, so that the middle of an even number
  // of planes is that of the used ones. Return where their number is even.
  Masks pad_unused(int n_planes) const {
    Reals number = all(0.0);
    for (int i = 0; i < n(); ++i) number = number + kept()[i];
    const Reals n_unused = all(n_planes) - number, infinity = all(std::numeric_limits<double>::infinity());
    Reals padded = all(0.0);
    for (int i = 0; i < n_planes; ++i) {
      const Reals used = i < n() ? kept()[i] : all(0.0);
      padded = padded + (all(1.0) - used);
      const Reals padding = choose(padded + padded <= n_unused, all(0.0) - infinity, infinity);
      sorted()[i] = choose(all(0.0) < used, sorted()[i], padding);
    }
    return whole(number / all(2.0));
  }

  static Masks whole(const Reals& numbers) {
    const auto of = [](const Half& part) { return part == convert<Half>(convert<Wide<int64, 8>>(part)); };
    return {of(numbers.a), of(numbers.b)};
  }
};

}  // namespace gpucoron
