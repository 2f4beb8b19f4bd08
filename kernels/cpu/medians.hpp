// Exact medians of series of neighbouring pixels: each lane of a vector is one series.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/wide.hpp"

namespace gpucoron {

// Comparisons that sort the median of a number of values to the middle, made once for each number.
//
// Batcher's odd-even merge sort (1968, AFIPS 32, 307), without comparisons that do not affect the middle.
class MedianNetwork {
 public:
  using Pair = std::pair<int, int>;

  const std::vector<Pair>& of(int n) {
    if (n != size) make(n);
    return pairs;
  }

 private:
  void make(int n) {
    std::vector<Pair> all;
    for (int part = 1; part < n; part *= 2)
      for (int stride = part; stride > 0; stride /= 2)
        for (int first = stride % part; first < n - stride; first += 2 * stride)
          for (int low = first; low < smaller(first + stride, n - stride); ++low)
            if (low / (2 * part) == (low + stride) / (2 * part)) all.emplace_back(low, low + stride);
    std::vector<bool> needed(n);
    needed[(n - 1) / 2] = needed[n / 2] = true;
    pairs.clear();
    for (auto pair = all.rbegin(); pair != all.rend(); ++pair)
      if (needed[pair->first] || needed[pair->second]) {
        pairs.push_back(*pair);
        needed[pair->first] = needed[pair->second] = true;
      }
    std::reverse(pairs.begin(), pairs.end());
    size = n;
  }

  int size = 0;
  std::vector<Pair> pairs;
};

// Sort the two middle values to their places; values must not be NaN. Returns their mean.
template <class Vector>
inline Vector sorted_median(Vector* values, int n, MedianNetwork& network) {
  for (const auto& [low, high] : network.of(n)) {
    const Vector a = values[low], b = values[high];
    values[low] = smaller_of(a, b);
    values[high] = larger_of(a, b);
  }
  return (values[(n - 1) / 2] + values[n / 2]) / 2.0;
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
inline Vector searched_median(const Vector* values, int n, Split<Vector> split, Vector apart, typename Split<Vector>::Choice used) {
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
