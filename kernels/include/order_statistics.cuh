// Exact order statistics of a series that is only ever streamed: nothing is sorted or moved.
//
// Real numbers become unsigned keys of the same order (the sign bit flipped, negative numbers inverted). Each pass counts
// the keys below some pivots, which narrows the bracket about the wanted rank 16 times (float) or 8 times (double). The
// first passes place the pivots at equal steps of value, which is good for noise about a level; the following ones at equal
// steps of key, which converges for any values.
#pragma once

#include "types.cuh"

// A macro, so that benchmarks can change it.
#ifndef GPUCORON_FLOAT_PIVOTS
#define GPUCORON_FLOAT_PIVOTS 15
#endif

namespace gpucoron {

template <class Real>
struct Keys;

template <>
struct Keys<float> {
  using Key = uint32;
  static constexpr int PIVOTS = GPUCORON_FLOAT_PIVOTS;
  static constexpr Key SIGN = 1u << 31;
  __device__ static Key bits(float value) { return __float_as_uint(value); }
  __device__ static float real(Key bits) { return __uint_as_float(bits); }
};

template <>
struct Keys<double> {
  using Key = uint64;
  static constexpr int PIVOTS = 7;  // twice the registers each
  static constexpr Key SIGN = 1ull << 63;
  __device__ static Key bits(double value) { return Key(__double_as_longlong(value)); }
  __device__ static double real(Key bits) { return __longlong_as_double(int64(bits)); }
};

template <class Real>
__device__ inline typename Keys<Real>::Key key_of(Real value) {
  const auto bits = Keys<Real>::bits(value);
  return bits & Keys<Real>::SIGN ? ~bits : bits | Keys<Real>::SIGN;
}

template <class Real>
__device__ inline Real value_of(typename Keys<Real>::Key key) {
  return Keys<Real>::real(key & Keys<Real>::SIGN ? key ^ Keys<Real>::SIGN : ~key);
}

// A series that is used many times: streamed again each time or, with GPUCORON_KEEP, stored once. `capacity`: the maximum
// number of values.
template <class Real, class Scan>
#ifdef GPUCORON_KEEP
auto keep(const Scan& scan, int capacity) {
  return host::Series<Real, Scan>(scan, capacity);
}
#else
__device__ inline const Scan& keep(const Scan& scan, int) {
  return scan;
}
#endif

// The number of values of a series without NaN, and its extremes.
template <class Real>
struct Survey {
  typename Keys<Real>::Key low;
  typename Keys<Real>::Key high;
  int count;
};

// `scan(visit)` calls visit(value) for every value of this lane; NaN are optional.
template <class Real, class Lanes, class Scan>
__device__ Survey<Real> survey(const Scan& scan) {
  using Key = typename Keys<Real>::Key;
#ifdef GPUCORON_KEEP
  if constexpr (requires { scan.minimum(); })
    if (const int count = scan.count()) return {key_of(scan.minimum()), key_of(scan.maximum()), count};
#endif
  Survey<Real> found{~Key(0), Key(0), 0};
  scan([&](Real value) {
    if (is_nan(value)) return;
    const Key key = key_of(value);
    found.low = smaller(found.low, key);
    found.high = larger(found.high, key);
    ++found.count;
  });
  return {Lanes::minimum(found.low), Lanes::maximum(found.high), Lanes::sum(found.count)};
}

constexpr int LINEAR_PASSES = 3;

// Pivots in (low, high], ascending.
template <class Real>
__device__ void place_pivots(typename Keys<Real>::Key low, typename Keys<Real>::Key high, bool linear,
                             typename Keys<Real>::Key* pivots) {
  using Key = typename Keys<Real>::Key;
  constexpr int PIVOTS = Keys<Real>::PIVOTS;
  const Real start = value_of<Real>(low);
  const Real step = (value_of<Real>(high) - start) / Real(PIVOTS + 1);
  linear = linear && is_finite(step);
  const Key stride = larger((high - low) / Key(PIVOTS + 1), Key(1));
#pragma unroll
  for (int j = 0; j < PIVOTS; ++j) {
    const Key offset = smaller(stride * Key(j + 1), high - low);
    const Key pivot = linear ? key_of(start + step * Real(j + 1)) : low + offset;
    pivots[j] = smaller(larger(pivot, low + Key(1)), high);
  }
}

template <class Real>
struct Ranked {
  Real at;    // the value of the rank
  Real next;  // the value of the next rank
};

// Find the value of `rank` (from 0) and the next one.
//
// `low` and `high` are keys that enclose the value of this rank. NaN are ignored. With `needs_next` false, `next` is
// undefined.
template <class Real, class Lanes, class Scan>
__device__ Ranked<Real> select_rank(const Scan& scan, int rank, typename Keys<Real>::Key low, typename Keys<Real>::Key high,
                                    bool needs_next) {
  using Key = typename Keys<Real>::Key;
  constexpr int PIVOTS = Keys<Real>::PIVOTS;
#ifdef GPUCORON_KEEP
  if constexpr (requires { scan.ranks(0, Real(0), Real(0)); }) {
    const auto [at, next] = scan.ranks(rank, value_of<Real>(low), value_of<Real>(high));
    return {at, next};
  }
#endif
  bool ends_at_rank = false;  // exactly rank + 1 keys are up to `high`: the value is the largest of them
  for (int pass = 0; low < high && !ends_at_rank; ++pass) {
    Key pivots[PIVOTS];
    int below[PIVOTS];
    place_pivots<Real>(low, high, pass < LINEAR_PASSES, pivots);
#pragma unroll
    for (int j = 0; j < PIVOTS; ++j) below[j] = 0;
    scan([&](Real value) {
      const Key key = is_nan(value) ? ~Key(0) : key_of(value);
#pragma unroll
      for (int j = 0; j < PIVOTS; ++j) below[j] += key < pivots[j];
    });
    const Key old_high = high;
#pragma unroll
    for (int j = 0; j < PIVOTS; ++j) {
      const int count = Lanes::sum(below[j]);
      if (count <= rank) {
        low = pivots[j];
      } else if (pivots[j] - Key(1) < high && high == old_high) {
        high = pivots[j] - Key(1);
        ends_at_rank = count == rank + 1;
      }
    }
  }
  if (!ends_at_rank && !needs_next) return {value_of<Real>(low), Real(0)};

  Key at = 0;
  Key next = ~Key(0);
  int count = 0;
  scan([&](Real value) {
    if (is_nan(value)) return;
    const Key key = key_of(value);
    if (key <= high) {
      at = larger(at, key);
      ++count;
    } else {
      next = smaller(next, key);
    }
  });
  at = Lanes::maximum(at);
  next = Lanes::minimum(next);
  const bool tied = Lanes::sum(count) > rank + 1;
  return {value_of<Real>(at), value_of<Real>(tied ? at : next)};
}

// The median of the numbers of ranks `first` to `first + count - 1`, in float64; the mean of two where `count` is even.
template <class Real, class Lanes, class Scan>
__device__ double median_of_ranks(const Scan& scan, int first, int count, typename Keys<Real>::Key low,
                                  typename Keys<Real>::Key high) {
  if (count < 1) return double_nan();
  const bool even = count % 2 == 0;
  const Ranked<Real> middle = select_rank<Real, Lanes>(scan, first + (count - 1) / 2, low, high, even);
  return even ? (double(middle.at) + double(middle.next)) / 2.0 : double(middle.at);
}

template <class Real, class Lanes, class Scan>
__device__ double median_of(const Scan& scan) {
  const Survey<Real> all = survey<Real, Lanes>(scan);
  return median_of_ranks<Real, Lanes>(scan, 0, all.count, all.low, all.high);
}

}  // namespace gpucoron
