// The threads of a block that share a frame, with the same functions as `Lanes`. All threads must take the same branches.
#pragma once

#include "types.cuh"

namespace gpucoron {

constexpr int MOST_BLOCK_THREADS = 1024;

struct Block {
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

  // Pairs are added in a fixed order, so that sums have the same bits in every run.
  template <class Value, class Join>
  __device__ static Value combine(Value value, Join join) {
    __shared__ Value partial[MOST_BLOCK_THREADS];
    partial[threadIdx.x] = value;
    for (unsigned step = 1; step < blockDim.x; step *= 2) {
      __syncthreads();
      if (threadIdx.x % (2 * step) == 0 && threadIdx.x + step < blockDim.x)
        partial[threadIdx.x] = join(partial[threadIdx.x], partial[threadIdx.x + step]);
    }
    __syncthreads();
    const Value all = partial[0];
    __syncthreads();
    return all;
  }
};

}  // namespace gpucoron
