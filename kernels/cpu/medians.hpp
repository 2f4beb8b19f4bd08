// Exact medians of series of neighbouring pixels: each lane of a vector is one series.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/sorting_networks.hpp"
#include "cpu/wide.hpp"

namespace gpucoron {

template <int N, class Vector>
inline void median_of_exactly(const Vector* values, Vector& median) {
  Vector sorted[N];
  for (int i = 0; i < N; ++i) sorted[i] = values[i];
  put_in_order<MEDIAN_NETWORK<N>>(sorted);
  median = (sorted[(N - 1) / 2] + sorted[N / 2]) / ElementOf<Vector>(2);
}

// Find the median of 1 to MOST values without NaN. It is no return value, because recursive functions are not inlined.
template <int MOST, class Vector>
inline void sort_median(const Vector* values, int n, Vector& median) {
  if constexpr (MOST > 1)
    if (n < MOST) return sort_median<MOST - 1>(values, n, median);
  median_of_exactly<MOST>(values, median);
}

// The number of values below a pivot, the largest of them, and the smallest of the others.
template <class Vector>
struct Split {
  using Real = ElementOf<Vector>;
  using Choice = decltype(Vector{} < Vector{});

  Choice count{};
  Vector below = all_of<Vector>(-std::numeric_limits<Real>::infinity());
  Vector above = all_of<Vector>(std::numeric_limits<Real>::infinity());

  void add(const Vector& value, const Vector& pivot) {
#ifdef __AVX512F__
    // Instructions that change the chosen elements only, which g++ does not use here.
    if constexpr (std::is_same_v<Vector, Wide<double, 8>>) {
      const __m512d v(value);
      const __mmask8 is_below = _mm512_cmp_pd_mask(v, __m512d(pivot), _CMP_LT_OQ);
      count = Choice(_mm512_mask_add_epi64(__m512i(count), is_below, __m512i(count), _mm512_set1_epi64(1)));
      below = Vector(_mm512_mask_max_pd(__m512d(below), is_below, __m512d(below), v));
      above = Vector(_mm512_mask_min_pd(__m512d(above), __mmask8(~is_below), __m512d(above), v));
      return;
    }
#endif
    const Choice is_below = value < pivot;
    count = is_below ? count + 1 : count;
    below = is_below ? larger_of(below, value) : below;
    above = is_below ? above : smaller_of(above, value);
  }
};

// Search for the median with pivots; the values are not moved.
//
// `split` is that by the first pivot, near the median, and `apart` about the distance of values there. The result is undefined
// in lanes that are not `used`, and in those with NaN or infinite values.
template <class Vector>
inline Vector searched_median(const Vector* values, int n, Split<Vector> split, Vector apart,
                              typename Split<Vector>::Choice used) {
  using Real = ElementOf<Vector>;
  using Choice = typename Split<Vector>::Choice;
  constexpr Real INFINITE = std::numeric_limits<Real>::infinity();
  constexpr int MOST_PASSES = 16;
  const int rank = (n - 1) / 2;
  // The value of the rank is from `low` to `high`, which are values; `below_low` are smaller, `up_to_high` up to `high`.
  Vector low = all_of<Vector>(-INFINITE), high = all_of<Vector>(INFINITE), median{};
  Vector below_low{}, up_to_high = all_of<Vector>(Real(n));
  Choice open = used;
  for (int pass = 0;; ++pass) {
    const Vector count = convert<Vector>(split.count);
    const Choice at_rank = open & (count == Real(rank + 1));
    median = at_rank ? (n % 2 ? split.below : (split.below + split.above) / Real(2)) : median;
    open &= ~at_rank;
    const Choice is_low = count <= Real(rank);
    low = is_low ? split.above : low;
    below_low = is_low ? count : below_low;
    high = is_low ? high : split.below;
    up_to_high = is_low ? up_to_high : count;
    // All values in between are the same, or there is one only.
    const Choice is_one = open & (low == high);
    median = is_one ? low : median;
    open &= ~is_one;
    if (n % 2) {
      const Choice is_next = open & (below_low == Real(rank));
      median = is_next ? low : median;
      open &= ~is_next;
    }
    if (!is_any(open)) return median;
    if (pass == MOST_PASSES) break;
    // As if the values had equal distances: between the limits or, without one of them, those given.
    const Choice no_low = low == -INFINITE, no_high = high == INFINITE;
    const Vector share = (Real(rank) + Real(0.5) - below_low) / (up_to_high - below_low - Real(1));
    const Vector step = (Real(rank) + Real(0.5) - count) * apart;
    apart *= Real(2);
    Vector pivot = no_high ? low + step : no_low ? high + step : low + (high - low) * share;
    pivot = pivot > low ? pivot : high;
    pivot = smaller_of(high, pivot);
    split = {};
    for (int i = 0; i < n; ++i) split.add(values[i], pivot);
  }
  static thread_local std::vector<Real> series;
  for (int lane = 0; lane < WIDTH_OF<Vector>; ++lane) {
    if (!open[lane]) continue;
    series.resize(n);
    for (int i = 0; i < n; ++i) series[i] = values[i][lane];
    std::sort(series.begin(), series.end());
    median[lane] = (series[rank] + series[n / 2]) / Real(2);
  }
  return median;
}

}  // namespace gpucoron
