// Vectors of neighbouring pixels, for kernels of a CPU: an operation on a vector is one instruction, or a few.
//
// They are vectors of the GNU compilers: + - * / & | ^ and comparisons work on each element, a comparison returns a vector of
// integers of the same size (-1 for true), and `mask ? a : b` chooses for each element. All operations are those of IEEE 754, so
// results have the same bits as those of a loop.
#pragma once

#include <cstring>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "types.cuh"

// All functions are compiled in one piece, so it does not matter how vectors are passed without the instructions for them.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace gpucoron {

template <class Value, int N>
struct WideOf {
  typedef Value type __attribute__((vector_size(N * sizeof(Value))));
};

template <class Value, int N>
using Wide = typename WideOf<Value, N>::type;

// The element type and the number of elements of a vector.
template <class Vector>
using ElementOf = std::remove_cv_t<std::remove_reference_t<decltype(Vector{}[0])>>;
template <class Vector>
constexpr int WIDTH_OF = sizeof(Vector) / sizeof(ElementOf<Vector>);

template <class Vector>
inline Vector all_of(ElementOf<Vector> value) {
  return value - Vector{};
}

// Load neighbours from any address; of the last strip of an image only `n`, and the others are zero.
template <class Vector>
inline Vector load(const ElementOf<Vector>* from, int n = WIDTH_OF<Vector>) {
  Vector values{};
  if (n == WIDTH_OF<Vector>)
    std::memcpy(&values, from, sizeof(Vector));
  else
    std::memcpy(&values, from, n * sizeof(ElementOf<Vector>));
  return values;
}

template <class Vector>
inline void store(const Vector& values, ElementOf<Vector>* to, int n = WIDTH_OF<Vector>) {
  if (n == WIDTH_OF<Vector>)
    std::memcpy(to, &values, sizeof(Vector));
  else
    std::memcpy(to, &values, n * sizeof(ElementOf<Vector>));
}

// The elements of `a` and `b`, one after the other, with these numbers.
template <int... NUMBERS, class Vector>
inline Wide<ElementOf<Vector>, sizeof...(NUMBERS)> picked(const Vector& a, const Vector& b) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, NUMBERS...);
#else
  // g++ 11 has no such function.
  constexpr int WIDTH = WIDTH_OF<Vector>;
  return Wide<ElementOf<Vector>, sizeof...(NUMBERS)>{(NUMBERS < WIDTH ? a[NUMBERS % WIDTH] : b[NUMBERS % WIDTH])...};
#endif
}

// The element of a table of eight for each of eight numbers.
template <class Numbers>
inline Wide<double, 8> looked_up(const Wide<double, 8>& table, const Numbers& numbers) {
#if __has_builtin(__builtin_shuffle)
  return __builtin_shuffle(table, numbers);
#else
  Wide<double, 8> found{};
  for (int i = 0; i < 8; ++i) found[i] = table[numbers[i]];
  return found;
#endif
}

// Convert each element, as a cast of C++.
template <class To, class From>
inline To convert(const From& values) {
  if constexpr (std::is_same_v<To, Wide<double, 8>> && std::is_same_v<From, Wide<float, 8>>) {
    // GCC 12 needs five instructions for eight numbers alone, and one for each half of sixteen.
    const auto twice = picked<0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7>(values, values);
    const auto wide = __builtin_convertvector(twice, Wide<double, 16>);
    return picked<0, 1, 2, 3, 4, 5, 6, 7>(wide, wide);
  }
  return __builtin_convertvector(values, To);
}

template <class Vector>
inline Vector square_roots(Vector values) {
  for (int i = 0; i < WIDTH_OF<Vector>; ++i) values[i] = sqrt(values[i]);
  return values;
}

template <class Vector>
inline Vector smaller_of(Vector a, Vector b) {
  return b < a ? b : a;
}

template <class Vector>
inline Vector larger_of(Vector a, Vector b) {
  return a < b ? b : a;
}

// Whether an element of a mask is set.
template <class Mask>
inline bool is_any(Mask mask) {
  ElementOf<Mask> found = 0;
  for (int i = 0; i < WIDTH_OF<Mask>; ++i) found |= mask[i];
  return found != 0;
}

// a * b + c, rounded once.
template <class Vector>
inline Vector fused(const Vector& a, const Vector& b, const Vector& c) {
  Vector sums{};
  for (int i = 0; i < WIDTH_OF<Vector>; ++i) sums[i] = fma(a[i], b[i], c[i]);
  return sums;
}

template <class Vector>
inline Vector floors(Vector values) {
  for (int i = 0; i < WIDTH_OF<Vector>; ++i) values[i] = floor(values[i]);
  return values;
}

// Fetch neighbours into the cache, before they are needed: the processor does not foresee a step to another frame. The address
// may be beyond the array.
template <class Value>
inline void prefetch(const Value* from, int n = 1) {
  constexpr int LINE = 64 / sizeof(Value);
  for (int i = 0; i < n; i += LINE) __builtin_prefetch(from + i);
}

// The sums of neighbouring elements: a0 + a1, a2 + a3, ..., b0 + b1, ...
inline Wide<double, 8> pair_sums(Wide<double, 8> a, Wide<double, 8> b) {
  return picked<0, 2, 4, 6, 8, 10, 12, 14>(a, b) + picked<1, 3, 5, 7, 9, 11, 13, 15>(a, b);
}

// Load eight rows, by their starts, of a table with four columns: columns[k] has their values of column k.
inline void load_columns(const double* table, const int* starts, Wide<double, 8>* columns) {
  Wide<double, 8> pairs[4], mixed[4];
  // Rows i and i + 4 side by side.
  for (int i = 0; i < 4; ++i)
    pairs[i] = picked<0, 1, 2, 3, 4, 5, 6, 7>(load<Wide<double, 4>>(table + starts[i]), load<Wide<double, 4>>(table + starts[i + 4]));
  for (int i = 0; i < 4; i += 2) {
    mixed[i] = picked<0, 8, 2, 10, 4, 12, 6, 14>(pairs[i], pairs[i + 1]);
    mixed[i + 1] = picked<1, 9, 3, 11, 5, 13, 7, 15>(pairs[i], pairs[i + 1]);
  }
  for (int k = 0; k < 2; ++k) {
    columns[k] = picked<0, 1, 8, 9, 4, 5, 12, 13>(mixed[k], mixed[k + 2]);
    columns[k + 2] = picked<2, 3, 10, 11, 6, 7, 14, 15>(mixed[k], mixed[k + 2]);
  }
}

}  // namespace gpucoron
