// The part of CUDA that the kernels use, for the fastest code on this CPU.
//
// No thread waits for another one: a block has one thread, and workers process blocks or tiles of pixels in turn. Kernels in
// which a thread accesses only its own pixel (GPUCORON_PIXELS) get one pixel with a contiguous time axis: a tile of pixels
// is transposed into a worker's cache before, and changed arrays are transposed back.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__ static inline __attribute__((always_inline))
#define __device__
#define __host__
// A block is one thread, so one copy per worker is enough.
#define __shared__ static thread_local

#define GPUCORON_KEEP

using std::fma;
using std::sqrt;

struct dim3 {
  unsigned x, y, z;
};

#ifdef GPUCORON_PIXELS
// Constants, so that the compiler knows that loops over time have a stride of one.
static constexpr dim3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0}, blockDim{1, 1, 1}, gridDim{1, 1, 1};
#else
static constexpr dim3 threadIdx{0, 0, 0}, blockDim{1, 1, 1};
static thread_local dim3 blockIdx, gridDim;
#endif

inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

// Kernels use these on a block's own memory, or for sums of integers and flags; the order does not matter.
inline int atomicOr(int* target, int value) { return std::atomic_ref<int>(*target).fetch_or(value); }
inline int atomicAdd(int* target, int value) { return std::atomic_ref<int>(*target).fetch_add(value); }
inline unsigned atomicOr(unsigned* target, unsigned value) { return std::atomic_ref<unsigned>(*target).fetch_or(value); }
inline void __syncthreads() {}

namespace gpucoron::host {

template <class Value>
Value swap_between_threads(Value value, int) {
  return value;
}

// A series that is used many times, stored as integers with the same order, so that loops become vector instructions. NaN is
// the largest integer. For each type `Scan`, only one series exists at a time.
template <class Real, class Scan>
class Series {
 public:
  using Order = std::conditional_t<sizeof(Real) == 8, std::int64_t, std::int32_t>;
  static constexpr Order NOTHING = std::numeric_limits<Order>::max();

  Series(const Scan& scan, std::size_t capacity) {
    static thread_local std::vector<Order> storage;
    if (storage.size() < capacity) storage.resize(capacity);
    places = storage.data();
    std::size_t stored = 0;
    scan([&, at = places](Real value) { at[stored++] = value == value ? order_of(value) : NOTHING; });
    length = stored;
  }

  template <class Visit>
  void operator()(Visit visit) const {
    for (std::size_t i = 0; i < length; ++i) visit(real(places[i]));
  }

  // Functions for order_statistics.cuh that need no call for each value.
  int count() const {
    Order found = 0;
    for (std::size_t i = 0; i < length; ++i) found += places[i] != NOTHING;
    return int(found);
  }

  Real minimum() const { return real(least_from(std::numeric_limits<Order>::min())); }

  Real maximum() const { return real(largest_below(NOTHING)); }

  // The values of `rank` and of the next rank, if there is one.
  std::pair<Real, Real> ranks(int rank, Real low, Real high) const {
    const Order at = length <= SHORT ? short_rank(rank) : long_rank(rank, order_of(low), order_of(high));
    return {real(at), real(count_below(at + 1) > rank + 1 ? at : least_from(at + 1))};
  }

 private:
  static constexpr std::size_t SHORT = 16;

  static Order order_of(Real value) {
    const Order bits = std::bit_cast<Order>(value);
    return bits < 0 ? bits ^ NOTHING : bits;
  }

  static Real real(Order order) { return std::bit_cast<Real>(order < 0 ? order ^ NOTHING : order); }

  Order least_from(Order bound) const {
    Order found = NOTHING;
    for (std::size_t i = 0; i < length; ++i) found = std::min(found, places[i] >= bound ? places[i] : NOTHING);
    return found;
  }

  Order largest_below(Order bound) const {
    constexpr Order LEAST = std::numeric_limits<Order>::min();
    Order found = LEAST;
    for (std::size_t i = 0; i < length; ++i) found = std::max(found, places[i] < bound ? places[i] : LEAST);
    return found;
  }

  Order count_below(Order bound) const {
    Order found = 0;
    for (std::size_t i = 0; i < length; ++i) found += places[i] < bound;
    return found;
  }

  // Compare each value with all others.
  Order short_rank(Order rank) const {
    Order padded[SHORT], below[SHORT];
    for (std::size_t i = 0; i < SHORT; ++i) {
      padded[i] = i < length ? places[i] : NOTHING;
      below[i] = 0;
    }
    for (Order j = 0; j < Order(length); ++j) {
      const Order value = places[j];
      for (Order i = 0; i < Order(SHORT); ++i) below[i] += Order(value < padded[i]) + (Order(value == padded[i]) & Order(j < i));
    }
    Order found = 0;
    for (std::size_t i = 0; i < SHORT; ++i) found |= below[i] == rank ? padded[i] : 0;
    return found;
  }

  // Search with pivots: placed by interpolation of the counts, every third one in the middle; finally by bisection of the
  // integers, which ends for any values.
  Order long_rank(Order rank, Order low, Order high) const {
    Order below_low = 0, up_to_high = Order(length);
    for (int pass = 0; low < high; ++pass) {
      Order pivot = (low & high) + ((low ^ high) >> 1);
      const Real start = real(low), span = real(high) - start;
      if (pass < 24 && span - span == 0) {
        const Real share = pass % 3 == 2 ? Real(0.5) : (Real(rank - below_low) + Real(0.5)) / Real(up_to_high - below_low);
        pivot = order_of(start + span * share);
      }
      pivot = std::min(std::max(pivot, Order(low + 1)), high);
      const Order below = count_below(pivot);
      if (below == rank) return least_from(pivot);
      if (below == rank + 1) return largest_below(pivot);
      if (below < rank) {
        low = pivot;
        below_low = below;
      } else {
        high = pivot - 1;
        up_to_high = below;
      }
    }
    return low;
  }

  Order* places;
  std::size_t length;
};

// Divide the numbers below `n` among workers; return whether all had enough memory. Where the system has no more threads, there
// are fewer workers.
template <class Work>
bool share_out(std::size_t n, unsigned n_workers, const Work& work) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> is_complete{true};
  auto take = [&]() noexcept {
    try {
      work([&] { return next.fetch_add(1, std::memory_order_relaxed); });
    } catch (...) {
      is_complete = false;
    }
  };
  std::vector<std::thread> others;
  try {
    for (unsigned worker = 1; worker < n_workers && worker < n; ++worker) others.emplace_back(take);
  } catch (...) {
  }
  take();
  for (auto& other : others) other.join();
  return is_complete;
}

#ifndef GPUCORON_PIXELS

// geometry: blocks x, y, z, and threads in a block, which are blocks here.
template <class Run>
bool launch(const unsigned* geometry, unsigned n_workers, const Run& run) {
  const std::size_t n_x = std::size_t(geometry[0]) * geometry[3], n_y = geometry[1];
  const std::size_t at_once = std::max<std::size_t>(1, std::min<std::size_t>(4096, n_x));
  const std::size_t pieces = (n_x + at_once - 1) / at_once;
  return share_out(pieces * n_y, n_workers, [&](auto take) {
    gridDim = {unsigned(n_x), unsigned(n_y), 1};
    for (std::size_t piece = take(); piece < pieces * n_y; piece = take()) {
      const std::size_t start = piece % pieces * at_once;
      const std::size_t stop = std::min(start + at_once, n_x);
      for (std::size_t x = start; x < stop; ++x) {
        blockIdx = {unsigned(x), unsigned(piece / pieces), 0};
        run();
      }
    }
  });
}

#else

// An array of shape (rows, n_pixels) of which a kernel gets one pixel; rows is 0 for other arguments. One row with items of
// size 0 is the same for all pixels.
struct Array {
  char* base;
  std::size_t rows;
  std::size_t item;
  bool is_read_only;
};

constexpr std::size_t LINE = 64, CACHE = 1 << 20, MOST_PIXELS = 64, LEAST_PIXELS = 16;

template <class Item>
void transpose(const Item* from, std::size_t n_rows, std::size_t n_columns, std::size_t from_step, std::size_t to_step,
               Item* to) {
  constexpr std::size_t SIDE = 16;
  for (std::size_t row = 0; row < n_rows; row += SIDE)
    for (std::size_t column = 0; column < n_columns; column += SIDE) {
      const std::size_t last_row = std::min(row + SIDE, n_rows), last_column = std::min(column + SIDE, n_columns);
      for (std::size_t c = column; c < last_column; ++c)
        for (std::size_t r = row; r < last_row; ++r) to[c * to_step + r] = from[r * from_step + c];
    }
}

template <class Act>
void by_item(std::size_t item, const Act& act) {
  if (item == 1) act(std::uint8_t{});
  if (item == 4) act(std::uint32_t{});
  if (item == 8) act(std::uint64_t{});
}

// Call run(at) for each pixel: at[i] points to its part of array i.
template <class Run>
bool launch(const Array* arrays, std::size_t n_arrays, std::size_t n_pixels, unsigned n_workers, const Run& run) {
  // Bytes from one pixel to the next in a tile: an odd number of cache lines, so that pixels use different ones.
  std::vector<std::size_t> steps(n_arrays, 0);
  std::size_t bytes_each = 0;
  for (std::size_t i = 0; i < n_arrays; ++i)
    if (arrays[i].rows > 1) {
      steps[i] = ((arrays[i].rows * arrays[i].item + LINE - 1) / LINE | 1) * LINE;
      bytes_each += steps[i];
    }
  std::size_t width = MOST_PIXELS;
  while (width > LEAST_PIXELS && width * bytes_each > CACHE) width /= 2;
  const std::size_t n_tiles = (n_pixels + width - 1) / width;
  return share_out(n_tiles, n_workers, [&](auto take) {
    std::vector<char> scratch(width * bytes_each + LINE);
    char* aligned = scratch.data() + (LINE - reinterpret_cast<std::uintptr_t>(scratch.data()) % LINE) % LINE;
    std::vector<char*> at(n_arrays);
    for (std::size_t tile = take(); tile < n_tiles; tile = take()) {
      const std::size_t first = tile * width, columns = std::min(width, n_pixels - first);
      auto each_transposed = [&](auto visit) {
        char* place = aligned;
        for (std::size_t i = 0; i < n_arrays; ++i)
          if (steps[i] > 0) {
            visit(arrays[i], steps[i], place);
            place += width * steps[i];
          }
      };
      each_transposed([&](const Array& array, std::size_t step, char* place) {
        by_item(array.item, [&](auto item) {
          using Item = decltype(item);
          transpose(reinterpret_cast<const Item*>(array.base) + first, array.rows, columns, n_pixels, step / sizeof(Item),
                    reinterpret_cast<Item*>(place));
        });
      });
      for (std::size_t column = 0; column < columns; ++column) {
        char* place = aligned;
        for (std::size_t i = 0; i < n_arrays; ++i) {
          const Array& array = arrays[i];
          at[i] = array.rows == 0 ? nullptr : array.base + (first + column) * array.item;
          if (steps[i] == 0) continue;
          at[i] = place + column * steps[i];
          place += width * steps[i];
        }
        run(at.data());
      }
      each_transposed([&](const Array& array, std::size_t step, char* place) {
        if (array.is_read_only) return;
        by_item(array.item, [&](auto item) {
          using Item = decltype(item);
          transpose(reinterpret_cast<const Item*>(place), columns, array.rows, step / sizeof(Item), n_pixels,
                    reinterpret_cast<Item*>(array.base) + first);
        });
      });
    }
  });
}

#endif

}  // namespace gpucoron::host
