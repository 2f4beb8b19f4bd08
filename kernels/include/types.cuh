// Definitions for all kernels: short names of types, jwst's group flags, and the indices of a thread.
//
// Arrays are C-contiguous ramps (nints, ngroups, ny, nx); a "pixel" is the flat index y * nx + x, a "frame" one group of
// one integration. Threads of a warp process neighbouring pixels, so that all loads are coalesced.
#pragma once

// Write this before a loop over neighbours with independent iterations, so that a CPU may vectorize it.
#ifdef GPUCORON_KEEP
#define GPUCORON_VECTORS _Pragma("GCC ivdep")
#else
#define GPUCORON_VECTORS
#endif

// Shared memory of which each thread uses a part of its own. In the builds for a CPU, a worker runs the threads of a block in
// turn.
#ifndef GPUCORON_SLICES
#define GPUCORON_SLICES __shared__
#endif

namespace gpucoron {

using uint8 = unsigned char;
using uint16 = unsigned short;
using uint32 = unsigned int;
using uint64 = unsigned long long;
using int64 = long long;

constexpr uint32 DO_NOT_USE = 1u << 0;
constexpr uint32 SATURATED = 1u << 1;
constexpr uint32 JUMP_DET = 1u << 2;
constexpr uint32 PERSISTENCE = 1u << 5;
constexpr uint32 AD_FLOOR = 1u << 6;
constexpr uint32 CHARGELOSS = 1u << 7;
constexpr uint32 NO_GAIN_VALUE = 1u << 19;

// Flags of groups whose value must not be used.
constexpr uint32 UNUSABLE = DO_NOT_USE | SATURATED;

// Groups whose flags share one word.
constexpr int WORD_GROUPS = 32;

// NaN is detected by comparison; the compiler options keep IEEE arithmetic.
template <class Real>
__device__ inline bool is_nan(Real value) {
  return value != value;
}

template <class Real>
__device__ inline bool is_finite(Real value) {
  return value - value == Real(0);
}

__device__ inline float float_nan() { return __uint_as_float(0x7fc00000u); }
__device__ inline float float_infinity() { return __uint_as_float(0x7f800000u); }
__device__ inline double double_nan() { return __longlong_as_double(0x7ff8000000000000ll); }

__device__ inline int64 thread_pixel() { return int64(blockIdx.x) * blockDim.x + threadIdx.x; }

__host__ __device__ constexpr int words_of(int n_groups) { return (n_groups + WORD_GROUPS - 1) / WORD_GROUPS; }

// Tests count how many samples a kernel reads, in the host build.
#ifdef GPUCORON_COUNT_READS
extern "C" {
inline unsigned long long gpucoron_reads = 0;
}
inline void count_reads(int n) { std::atomic_ref<unsigned long long>(gpucoron_reads) += n; }
#else
__device__ inline void count_reads(int) {}
#endif

template <class Value>
__device__ inline Value smaller(Value a, Value b) {
  return b < a ? b : a;
}

template <class Value>
__device__ inline Value larger(Value a, Value b) {
  return a < b ? b : a;
}

}  // namespace gpucoron
