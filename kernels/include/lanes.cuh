// Lanes: the threads of one warp that share a pixel.
//
// A warp processes 32 / LANES neighbouring pixels, so that a load still covers whole 32-byte sectors. All lanes of a pixel
// must take the same branches around the calls below; different pixels may differ.
#pragma once

#include "types.cuh"

namespace gpucoron {

constexpr int WARP_THREADS = 32;

template <int LANES>
struct Lanes {
  static constexpr int PIXELS = WARP_THREADS / LANES;

  // This thread's number among the lanes of its pixel.
  __device__ static int index() { return LANES == 1 ? 0 : int(threadIdx.x % WARP_THREADS) / PIXELS; }

  __device__ static int64 pixel() {
    if (LANES == 1) return thread_pixel();
    const int in_block = threadIdx.x / WARP_THREADS * PIXELS + threadIdx.x % PIXELS;
    return int64(blockIdx.x) * (blockDim.x / LANES) + in_block;
  }

  template <class Value>
  __device__ static Value sum(Value value) {
    return combine(value, [](Value a, Value b) { return a + b; });
  }

  template <class Value>
  __device__ static Value minimum(Value value) {
    return combine(value, [](Value a, Value b) { return smaller(a, b); });
  }

  template <class Value>
  __device__ static Value maximum(Value value) {
    return combine(value, [](Value a, Value b) { return larger(a, b); });
  }

  template <class Value, class Join>
  __device__ static Value combine(Value value, Join join) {
    for (int step = PIXELS; step < WARP_THREADS; step *= 2) value = join(value, swap(value, step));
    return value;
  }

 private:
  // The value of the lane whose thread number differs in the bit `step`.
  template <class Value>
  __device__ static Value swap(Value value, int step) {
#ifdef __CUDACC__
    uint32 members = 0;
    for (int lane = 0; lane < LANES; ++lane) members |= 1u << (threadIdx.x % PIXELS + lane * PIXELS);
    return __shfl_xor_sync(members, value, step);
#else
    return host::swap_between_threads(value, step);
#endif
  }
};

}  // namespace gpucoron
