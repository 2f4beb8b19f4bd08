// The part of CUDA that the kernels use, for a C++20 compiler: the same .cu files then run on the CPU.
//
// Threads that never wait for each other are plain loops over blocks, divided among a few workers. In kernels with barriers
// or exchanges between the threads of a warp, each thread of a block is a std::thread, and blocks run one after the other.
#pragma once

#include <atomic>
#include <barrier>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
// Blocks with shared memory run one after the other, so one copy is enough.
#define __shared__ static
// Of memory in which each thread uses only its own part, every worker has a copy.
#define GPUCORON_SLICES static thread_local

using std::floor;
using std::fma;
using std::sqrt;

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline int atomicAdd(int* target, int value) { return std::atomic_ref<int>(*target).fetch_add(value); }
inline int atomicOr(int* target, int value) { return std::atomic_ref<int>(*target).fetch_or(value); }
inline unsigned atomicOr(unsigned* target, unsigned value) { return std::atomic_ref<unsigned>(*target).fetch_or(value); }
inline unsigned atomicAdd(unsigned* target, unsigned value) { return std::atomic_ref<unsigned>(*target).fetch_add(value); }

namespace gpucoron::host {

// The value that a thread passes to its partner. Partners make the same exchanges in the same order.
struct Mailbox {
  unsigned long long value = 0;
  std::atomic<unsigned> sent{0};
  std::atomic<unsigned> fetched{0};
};

inline std::unique_ptr<std::barrier<>> block_barrier;
inline std::unique_ptr<Mailbox[]> mailboxes;
inline thread_local unsigned n_exchanges;

inline void wait_for(std::atomic<unsigned>& counter, unsigned target) {
  for (unsigned seen = counter.load(); seen != target; seen = counter.load()) counter.wait(seen);
}

template <class Value>
Value swap_between_threads(Value value, int step) {
  Mailbox& mine = mailboxes[threadIdx.x];
  Mailbox& partner = mailboxes[threadIdx.x ^ unsigned(step)];
  ++n_exchanges;
  std::memcpy(&mine.value, &value, sizeof(value));
  mine.sent = n_exchanges;
  mine.sent.notify_all();
  wait_for(partner.sent, n_exchanges);
  std::memcpy(&value, &partner.value, sizeof(value));
  partner.fetched = n_exchanges;
  partner.fetched.notify_all();
  wait_for(mine.fetched, n_exchanges);
  return value;
}

template <class... Arguments, std::size_t... I>
std::tuple<Arguments...> unpack(void** arguments, std::index_sequence<I...>) {
  return {*static_cast<Arguments*>(arguments[I])...};
}

inline dim3 block_at(std::size_t number) {
  return {unsigned(number % gridDim.x), unsigned(number / gridDim.x % gridDim.y),
          unsigned(number / gridDim.x / gridDim.y)};
}

template <class Run>
void run_in_loops(const Run& run, std::size_t n_blocks, unsigned n_workers) {
  auto work = [&](unsigned worker) {
    for (std::size_t block = worker; block < n_blocks; block += n_workers) {
      blockIdx = block_at(block);
      for (unsigned thread = 0; thread < blockDim.x; ++thread) {
        threadIdx = {thread, 0, 0};
        run();
      }
    }
  };
  std::vector<std::thread> others;
  for (unsigned worker = 1; worker < n_workers; ++worker) others.emplace_back(work, worker);
  work(0);
  for (auto& other : others) other.join();
}

template <class Run>
void run_in_threads(const Run& run, std::size_t n_blocks) {
  block_barrier = std::make_unique<std::barrier<>>(blockDim.x);
  mailboxes = std::make_unique<Mailbox[]>(blockDim.x);
  std::vector<std::thread> threads;
  for (unsigned thread = 0; thread < blockDim.x; ++thread)
    threads.emplace_back([&, thread] {
      threadIdx = {thread, 0, 0};
      n_exchanges = 0;
      for (std::size_t block = 0; block < n_blocks; ++block) {
        blockIdx = block_at(block);
        run();
        block_barrier->arrive_and_wait();
      }
    });
  for (auto& thread : threads) thread.join();
}

// Launch `kernel` with arguments given by address, as for cuLaunchKernel. geometry: blocks x, y, z, threads.
template <bool WAITS, class... Arguments>
void launch(void (*kernel)(Arguments...), const unsigned* geometry, unsigned n_workers, void** arguments) {
  gridDim = {geometry[0], geometry[1], geometry[2]};
  blockDim = {geometry[3], 1, 1};
  const auto values = unpack<Arguments...>(arguments, std::index_sequence_for<Arguments...>{});
  const auto run = [&] { std::apply(kernel, values); };
  const std::size_t n_blocks = std::size_t(gridDim.x) * gridDim.y * gridDim.z;
  if constexpr (WAITS)
    run_in_threads(run, n_blocks);
  else
    run_in_loops(run, n_blocks, n_workers);
}

}  // namespace gpucoron::host

inline void __syncthreads() { gpucoron::host::block_barrier->arrive_and_wait(); }
