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

// Convert each element, as a cast of C++.
template <class To, class From>
inline To convert(const From& values) {
#ifdef __AVX512F__
  // One instruction, where g++ makes four.
  if constexpr (std::is_same_v<From, Wide<float, 8>> && std::is_same_v<To, Wide<double, 8>>)
    return To(_mm512_cvtps_pd(__m256(values)));
#endif
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

}  // namespace gpucoron
