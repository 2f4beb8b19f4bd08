// Networks of comparisons that sort a number of values known in advance, for vectors in registers.
#pragma once

#include <utility>

#include "cpu/wide.hpp"

namespace gpucoron {

// Pairs of places to compare in turn: Batcher's odd-even merge sort (1968, AFIPS 32, 307).
template <int N>
struct SortingNetwork {
  int low[N * N]{}, high[N * N]{};
  int size = 0;

  constexpr SortingNetwork() {
    for (int part = 1; part < N; part *= 2)
      for (int stride = part; stride > 0; stride /= 2)
        for (int first = stride % part; first < N - stride; first += 2 * stride)
          for (int at = first; at < first + stride && at < N - stride; ++at)
            if (at / (2 * part) == (at + stride) / (2 * part)) {
              low[size] = at;
              high[size++] = at + stride;
            }
  }

  // The comparisons that affect the middle.
  constexpr SortingNetwork of_median() const {
    bool needed[N]{};
    needed[(N - 1) / 2] = true;
    needed[N / 2] = true;
    bool kept[N * N]{};
    for (int i = size - 1; i >= 0; --i) {
      kept[i] = needed[low[i]] || needed[high[i]];
      needed[low[i]] = needed[low[i]] || kept[i];
      needed[high[i]] = needed[high[i]] || kept[i];
    }
    SortingNetwork found;
    found.size = 0;
    for (int i = 0; i < size; ++i)
      if (kept[i]) {
        found.low[found.size] = low[i];
        found.high[found.size++] = high[i];
      }
    return found;
  }
};

template <int N>
inline constexpr SortingNetwork<N> SORTING_NETWORK{};
template <int N>
inline constexpr SortingNetwork<N> MEDIAN_NETWORK = SORTING_NETWORK<N>.of_median();

template <class Vector>
inline void put_in_order(Vector& low, Vector& high) {
  const Vector a = low, b = high;
  low = smaller_of(a, b);
  high = larger_of(a, b);
}

// Compare values by a network; unrolled, so that all of them are in registers.
template <const auto& NETWORK, class Vector>
inline void put_in_order(Vector* values) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (put_in_order(values[NETWORK.low[I]], values[NETWORK.high[I]]), ...);
  }(std::make_index_sequence<NETWORK.size>());
}

}  // namespace gpucoron
