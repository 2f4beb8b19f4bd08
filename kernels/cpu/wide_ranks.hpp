// Exact order statistics of neighbouring pixels at the same time. Each pixel has a column of float32 values, and a row
// holds one value of each pixel.
//
// Values are stored as integers of the same order, NaN as the largest one. A search counts the values below two pivots in
// each column, which narrows the bracket about the wanted rank; the last few values are sorted in registers. Pivots are
// placed by interpolation of the counts, at first between values of a sample, and now and then in the middle of the
// integers, so that the search ends for any values. All columns are scanned until the last one is finished.
#pragma once

#include <climits>
#include <cstring>

#include "cpu/sorting_networks.hpp"
#include "cpu/wide.hpp"

namespace gpucoron {

// A vector must not be wider than those of the processor, or GCC processes its elements one by one. Where that is a line of
// the cache, halves compare faster: with masks in vectors, not in mask registers.
#ifdef __AVX512F__
constexpr int COLUMNS = 16;
#else
constexpr int COLUMNS = 8;
#endif
constexpr int PART = 8;
constexpr int PARTS = COLUMNS / PART;
using Orders = Wide<int, COLUMNS>;
using Reals = Wide<float, COLUMNS>;
using PartOfOrders = Wide<int, PART>;

// The integer of NaN, above all others, and that of infinity.
constexpr int NOTHING = INT_MAX;
constexpr int INFINITE = 0x7f800000;

template <class To, class From>
inline To same_bits(const From& values) {
  To bits;
  static_assert(sizeof(bits) == sizeof(values));
  std::memcpy(&bits, &values, sizeof(bits));
  return bits;
}

// Load from any address. (GCC 12 converts the elements of a vector of bytes one by one if it was copied.)
template <class Vector>
inline Vector load_row(const ElementOf<Vector>* from) {
  typedef Vector Anywhere __attribute__((aligned(1), may_alias));
  return *reinterpret_cast<const Anywhere*>(from);
}

inline Orders orders_of(const Reals& values) {
  const Orders bits = same_bits<Orders>(values);
  return values == values ? bits ^ ((bits >> 31) & NOTHING) : all_of<Orders>(NOTHING);
}

inline Reals reals_of(const Orders& orders) { return same_bits<Reals>(orders ^ ((orders >> 31) & NOTHING)); }

inline float real_of(int order) { return __uint_as_float(order < 0 ? order ^ NOTHING : order); }

// Whether an element of a mask is set.
inline bool is_any(const Orders& mask) {
  const auto bytes = same_bits<Wide<int64, PARTS>>(convert<Wide<signed char, COLUMNS>>(mask));
  int64 found = 0;
  for (int i = 0; i < PARTS; ++i) found |= bytes[i];
  return found != 0;
}

// Rows of values, and the same rows as magnitudes. A vector may start at any column.
struct Rows {
  const int* first;
  int number;

  template <class Vector = Orders>
  Vector get(int row, int column = 0) const {
    return load_row<Vector>(first + std::size_t(row) * COLUMNS + column);
  }
};

struct Magnitudes {
  Rows rows;
  int number;

  template <class Vector = Orders>
  Vector get(int row, int column = 0) const {
    const auto orders = rows.get<Vector>(row, column);
    return orders ^ (orders >> 31);
  }
};

// Columns without any number have a count of zero.
struct Columns {
  Orders count;  // of numbers
  Orders low;    // the smallest
  Orders high;   // the largest
};

template <class Values>
inline Columns survey_columns(const Values& values) {
  Columns found{all_of<Orders>(0), all_of<Orders>(NOTHING), all_of<Orders>(INT_MIN)};
  for (int row = 0; row < values.number; ++row) {
    const Orders value = values.get(row);
    const auto is_number = value != NOTHING;
    found.count -= is_number;
    found.low = smaller_of(found.low, value);
    found.high = larger_of(found.high, is_number ? value : all_of<Orders>(INT_MIN));
  }
  const auto is_empty = found.count == 0;
  found.low = is_empty ? all_of<Orders>(0) : found.low;
  found.high = is_empty ? all_of<Orders>(0) : found.high;
  return found;
}

template <int N, class Values>
inline void count_below(const Values& values, const Orders (&pivots)[N], Orders (&counts)[N]) {
  struct Parts {
    PartOfOrders part[PARTS];
  };
  Parts of_pivots[N], found[N]{};
  for (int j = 0; j < N; ++j) of_pivots[j] = same_bits<Parts>(pivots[j]);
  for (int row = 0; row < values.number; ++row)
    for (int i = 0; i < PARTS; ++i) {
      const auto value = values.template get<PartOfOrders>(row, i * PART);
      for (int j = 0; j < N; ++j) found[j].part[i] -= value < of_pivots[j].part[i];
    }
  for (int j = 0; j < N; ++j) counts[j] = same_bits<Orders>(found[j]);
}

// The value of the wanted rank is between `low` and `high`, both included.
struct Bracket {
  Orders low;
  Orders high;
  Orders below;  // number of values below `low`
  Orders up_to;  // number of values up to `high`

  void narrow(const Orders& pivot, const Orders& count, const Orders& rank) {
    const auto raises = (count <= rank) & (pivot > low);
    low = raises ? pivot : low;
    below = raises ? count : below;
    const auto lowers = (count > rank) & (pivot <= high);
    high = lowers ? pivot - 1 : high;
    up_to = lowers ? count : up_to;
  }
};

// Move the ends of a bracket to values of the column.
template <class Values>
inline void tighten(const Values& values, Bracket& bracket) {
  Orders low = all_of<Orders>(NOTHING), high = all_of<Orders>(INT_MIN);
  for (int row = 0; row < values.number; ++row) {
    const Orders value = values.get(row);
    low = smaller_of(low, value >= bracket.low ? value : bracket.high);
    high = larger_of(high, value <= bracket.high ? value : bracket.low);
  }
  bracket.low = low;
  bracket.high = high;
}

constexpr int SAMPLE = 16;
constexpr int MANY_ROWS = 48;

// Pivots about the median of a sample of the rows.
template <class Values>
inline void narrow_by_sample(const Values& values, const Orders& rank, Bracket& bracket) {
  Orders sample[SAMPLE];
  for (int i = 0; i < SAMPLE; ++i) sample[i] = values.get(int((2 * i + 1) * int64(values.number) / (2 * SAMPLE)));
  put_in_order<SORTING_NETWORK<SAMPLE>>(sample);
  const Orders pivots[4] = {sample[1], sample[6], sample[9], sample[14]};
  Orders counts[4];
  count_below(values, pivots, counts);
  for (int j = 0; j < 4; ++j) bracket.narrow(pivots[j], counts[j], rank);
}

// Two pivots, between which the wanted rank probably is.
inline void place_pivots(const Bracket& bracket, const Orders& rank, bool in_the_middle, Orders (&pivots)[2]) {
  const Orders middle = (bracket.low & bracket.high) + ((bracket.low ^ bracket.high) >> 1);
  pivots[0] = middle;
  pivots[1] = (middle & bracket.high) + ((middle ^ bracket.high) >> 1);
  if (!in_the_middle) {
    const Reals start = reals_of(bracket.low), span = reals_of(bracket.high) - start;
    const Reals inside = convert<Reals>(bracket.up_to - bracket.below);
    const Reals step = span / inside, place = convert<Reals>(rank - bracket.below) - 0.5f;
    // Of values at random places, the rank of a place is uncertain by up to half of this root.
    const Reals margin = 0.5f * square_roots(inside);
    const auto is_finite = span - span == 0.0f;
    pivots[0] = is_finite ? orders_of(start + step * (place - margin)) : pivots[0];
    pivots[1] = is_finite ? orders_of(start + step * (place + margin)) : pivots[1];
  }
  for (Orders& pivot : pivots) pivot = smaller_of(larger_of(pivot, bracket.low + 1), bracket.high);
}

struct RankedColumns {
  Orders at;    // the value of the rank
  Orders next;  // the value of the next rank, where there is one
};

// Find the values of `rank` (from 0) and of the next rank in each column; of empty columns, anything.
template <class Values>
inline RankedColumns select_ranks(const Values& values, const Orders& rank, const Columns& columns) {
  constexpr int NEAREST = 4;
  Bracket bracket{columns.low, columns.high, all_of<Orders>(0), columns.count};
  // Unless the bracket has one value, the rank and the next one must be among the values that are sorted.
  const auto is_wide = [&] { return is_any((bracket.low < bracket.high) & (rank - bracket.below > NEAREST - 2)); };
  if (values.number >= MANY_ROWS && is_wide()) narrow_by_sample(values, rank, bracket);
  for (int pass = 0; is_wide(); ++pass) {
    if (pass % 4 == 2) tighten(values, bracket);
    Orders pivots[2], counts[2];
    place_pivots(bracket, rank, pass % 8 == 7, pivots);
    count_below(values, pivots, counts);
    for (int j = 0; j < 2; ++j) bracket.narrow(pivots[j], counts[j], rank);
  }
  const auto is_single = bracket.low >= bracket.high;
  const Orders least = is_single ? bracket.low + 1 : bracket.low;
  Orders nearest[NEAREST];
  for (Orders& each : nearest) each = all_of<Orders>(NOTHING);
  for (int row = 0; row < values.number; ++row) {
    Orders value = values.get(row);
    value = value >= least ? value : all_of<Orders>(NOTHING);
    for (Orders& each : nearest) {
      const Orders smaller = smaller_of(each, value);
      value = larger_of(each, value);
      each = smaller;
    }
  }
  const Orders place = rank - bracket.below;
  RankedColumns found{nearest[0], nearest[1]};
  for (int i = 1; i < NEAREST - 1; ++i) {
    found.at = place == i ? nearest[i] : found.at;
    found.next = place == i ? nearest[i + 1] : found.next;
  }
  found.next = is_single ? (bracket.up_to > rank + 1 ? bracket.low : nearest[0]) : found.next;
  found.at = is_single ? bracket.low : found.at;
  return found;
}

}  // namespace gpucoron
