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

// Search for the median by counting the values below pivots; the values are not moved.
//
// `least` and `largest` are the extremes and `guess` is near the median. The result is undefined in lanes that are not
// `used`, and in those with NaN or infinite values.
template <class Vector, class Choice>
inline Vector counted_median(const Vector* values, int n, Vector least, Vector largest, Vector guess, Choice used) {
  using Real = ElementOf<Vector>;
  constexpr Real INFINITE = std::numeric_limits<Real>::infinity();
  constexpr int MOST_PASSES = 12;
  // Wanted is a limit with this number of values below it. Below `low` there are fewer, and below `high` this many or more.
  const Vector wanted = all_of<Vector>(Real((n - 1) / 2 + 1));
  Vector low = least, high = all_of<Vector>(INFINITE), top = largest;
  Vector below_low{}, below_high = used ? all_of<Vector>(Real(n)) : wanted;
  Vector pivot = guess, apart = (largest - least) * Real(0.02);
  for (int pass = 0; pass < MOST_PASSES; ++pass) {
    const Vector pivots[] = {pivot - apart, pivot, pivot + apart};
    Choice counts[3]{};
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < 3; ++j) counts[j] -= values[i] < pivots[j];
    for (int j = 0; j < 3; ++j) {
      const Vector count = convert<Vector>(counts[j]);
      const Choice is_low = (count < wanted) & (pivots[j] > low);
      low = is_low ? pivots[j] : low;
      below_low = is_low ? count : below_low;
    }
    for (int j = 2; j >= 0; --j) {
      const Vector count = convert<Vector>(counts[j]);
      const Choice is_high = used & (count >= wanted) & (pivots[j] < high);
      high = is_high ? pivots[j] : high;
      top = is_high ? pivots[j] : top;
      below_high = is_high ? count : below_high;
    }
    if (!is_any(below_high > wanted)) break;
    // As if the values between the limits had equal distances.
    const Vector inside = below_high - below_low;
    pivot = low + (top - low) * ((wanted - below_low) / inside);
    apart = (top - low) * Real(0.5) / square_roots(inside);
  }
  Choice is_tied{};
  Vector tied{};
  for (;;) {
    Vector at = all_of<Vector>(-INFINITE), next = all_of<Vector>(INFINITE);
    for (int i = 0; i < n; ++i) {
      const Choice is_below = values[i] < high;
      at = larger_of(at, is_below ? values[i] : at);
      next = smaller_of(next, is_below ? next : values[i]);
    }
    Choice is_open = (below_high > wanted) & ~is_tied;
    if (is_any(is_open)) {
      // The largest value below the limit is the wanted one and the next, or it becomes the limit.
      Choice counts{};
      for (int i = 0; i < n; ++i) counts -= values[i] < at;
      const Vector count = convert<Vector>(counts);
      const Choice is_wanted = is_open & (count < wanted);
      tied = is_wanted ? at : tied;
      is_tied |= is_wanted;
      is_open &= ~is_wanted;
      high = is_open ? at : high;
      below_high = is_open ? count : below_high;
    }
    if (!is_any(is_open)) return is_tied ? tied : n % 2 ? at : (at + next) / Real(2);
  }
}

}  // namespace gpucoron
