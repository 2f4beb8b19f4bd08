// Exact medians of a streamed series, with a little shared memory for each thread. No thread waits for another one.
//
// A pass over the series counts the values in bins; the next one stores those of the bin with the median, if they fit, or
// finds their extremes, between which the bins of the following pass are placed. Bins about the mean, as wide as the median
// of noise is uncertain, leave a few values: then two passes suffice. Everything is compared in float64; only the bins of a
// first guess are float32, and they too never change the order of two values.
#pragma once

#include "order_statistics.cuh"

namespace gpucoron {

// The largest number of threads in a block, and of values that are sorted at once, in a larger slice.
constexpr int SLICE_THREADS = 128, MOST_SORTED = 24;

// A thread's own part of the shared memory of its block: either numbers, of which each has two words, or counts in bins.
class NumberSlice {
 public:
  static constexpr int CAPACITY = 16;
  static constexpr int BINS = 2 * CAPACITY;

  // shared: words for CAPACITY or MOST_SORTED numbers of each thread, the same for all threads of the block.
  __device__ explicit NumberSlice(uint32* shared) : words(shared + threadIdx.x) {}
  __host__ __device__ static constexpr int words_of(int n_numbers) { return 2 * n_numbers * SLICE_THREADS; }

  __device__ double value(int place) const {
    const uint32* const low = words + 2 * place * SLICE_THREADS;
    return __longlong_as_double(int64(uint64(low[SLICE_THREADS]) << 32 | *low));
  }
  __device__ void put(int place, double value) const {
    uint32* const low = words + 2 * place * SLICE_THREADS;
    const auto bits = uint64(__double_as_longlong(value));
    low[0] = uint32(bits);
    low[SLICE_THREADS] = uint32(bits >> 32);
  }

  __device__ void clear() const {
    for (int bin = 0; bin < BINS; ++bin) words[bin * SLICE_THREADS] = 0;
  }
  __device__ void count(int bin) const { ++words[bin * SLICE_THREADS]; }
  __device__ int counted(int bin) const { return int(words[bin * SLICE_THREADS]); }

  // The bin with `rank`, which becomes its rank in the bin.
  __device__ int bin_of(int& rank) const {
    int bin = 0;
    for (; bin < BINS - 1; ++bin) {
      const int inside = counted(bin);
      if (rank < inside) break;
      rank -= inside;
    }
    return bin;
  }

  // Sort the smallest numbers, up to `last`, of `count` stored ones.
  __device__ void sort(int last, int count) const {
    for (int place = 0; place <= last; ++place) {
      double least = value(place);
      for (int other = place + 1; other < count; ++other) {
        const double found = value(other);
        if (found < least) {
          put(other, least);
          least = found;
        }
      }
      put(place, least);
    }
  }

 private:
  uint32* words;
};

// Whole numbers of bins; `place` is not NaN.
__device__ inline int bin_at(float place) { return int(fminf(fmaxf(place, 0.0f), float(NumberSlice::BINS - 1))); }
__device__ inline int bin_at(double place) { return int(fmin(fmax(place, 0.0), double(NumberSlice::BINS - 1))); }

// Bins of equal width about the probable median; the first and last ones have no end.
template <class Real>
struct EqualBins {
  Real start;
  Real scale;

  // From the mean of n values and the mean of |value - mean|. The median of Gaussian noise is within 0.8 sigma / sqrt(n) of
  // the mean, 0.6 for differences of noisy samples; the bins extend to ten times that.
  __device__ static EqualBins about(Real mean, Real deviation, int n) {
    const Real reach = Real(10) * deviation / sqrt(Real(n));
    return {mean - reach, Real(NumberSlice::BINS / 2) / reach};
  }
  __device__ bool is_usable() const { return is_finite(start) && is_finite(scale) && scale > Real(0); }
  __device__ int of(double value) const { return bin_at((Real(value) - start) * scale); }
};

// Bins between two numbers that differ: of equal width or, for any distribution, by their keys.
struct BinsBetween {
  EqualBins<double> equal;
  uint64 low;
  int shift;  // negative for bins of equal width

  __device__ static BinsBetween make(double low, double high, bool linear) {
    BinsBetween bins{{low, NumberSlice::BINS / (high - low)}, key_of(low), -1};
    if (linear && bins.equal.is_usable()) return bins;
    bins.shift = 0;
    while ((key_of(high) - bins.low) >> bins.shift >= uint64(NumberSlice::BINS)) ++bins.shift;
    return bins;
  }
  __device__ int of(double value) const {
    return shift < 0 ? equal.of(value) : int((key_of(value) - low) >> shift);
  }
};

// What a pass finds of some values of a series: their number, sum and extremes, and the least value above them. They are
// stored in the slice as far as they fit.
struct Portion {
  int count;
  double sum, low, high, next;

  __device__ static Portion none() {
    const double infinity = __longlong_as_double(0x7ff0000000000000ll);
    return {0, 0.0, infinity, -infinity, infinity};
  }
  __device__ void add(double value, const NumberSlice& slice) {
    if (count < NumberSlice::CAPACITY) slice.put(count, value);
    ++count;
    sum += value;
    low = smaller(low, value);
    high = larger(high, value);
  }
  __device__ void pass_over(double value) { next = smaller(next, value); }

  // Whether the value of a rank, and the next one, are known.
  __device__ bool has(int rank) const { return count <= NumberSlice::CAPACITY || low == high || rank == count - 1; }

  // The median: the value of `rank`, or the mean of it and the next one.
  __device__ double median(int rank, bool even, const NumberSlice& slice) const {
    double at = high, after = next;
    if (rank < count - 1) {
      at = after = low;
      if (low < high) {
        slice.sort(rank + 1, count);
        at = slice.value(rank);
        after = slice.value(rank + 1);
      }
    }
    return even ? (at + after) / 2.0 : at;
  }
};

// Count the values between `low` and `high` in bins, find the bin with `rank`, and collect its values. `rank` becomes the rank
// in the bin.
template <class Scan, class Bins>
__device__ Portion narrow(const Scan& scan, const NumberSlice& slice, const Bins& bins, double low, double high, int& rank) {
  slice.clear();
  scan([&](double value) {
    if (value >= low && value <= high) slice.count(bins.of(value));
  });
  const int bin = slice.bin_of(rank);
  Portion found = Portion::none();
  scan([&](double value) {
    if (!(value >= low)) return;
    const int its = value > high ? NumberSlice::BINS : bins.of(value);
    if (its == bin) found.add(value, slice);
    if (its > bin) found.pass_over(value);
  });
  return found;
}

// The median of the numbers of a series; `count` is how many there are. -0 counts as 0.
template <class Scan>
__device__ double median_in_slice(const Scan& series, const NumberSlice& slice, int& count) {
  // Both zeros are equal, but have different keys.
  const auto scan = [&](auto visit) { series([&](double value) { visit(value + 0.0); }); };
  Portion found = Portion::none();
  scan([&](double value) {
    if (!is_nan(value)) found.add(value, slice);
  });
  count = found.count;
  if (count == 0) return double_nan();
  int rank = (count - 1) / 2;
  const bool even = count % 2 == 0;
  if (!found.has(rank)) {
    const double mean = found.sum / count;
    double deviation = 0.0;
    for (int place = 0; place < NumberSlice::CAPACITY; ++place) {
      const double difference = slice.value(place) - mean;
      deviation += difference < 0.0 ? -difference : difference;
    }
    const auto guess = EqualBins<double>::about(mean, deviation / NumberSlice::CAPACITY, count);
    if (guess.is_usable()) found = narrow(scan, slice, guess, found.low, found.high, rank);
  }
  for (int pass = 0; !found.has(rank); ++pass) {
    const auto bins = BinsBetween::make(found.low, found.high, pass < LINEAR_PASSES);
    found = narrow(scan, slice, bins, found.low, found.high, rank);
  }
  return found.median(rank, even, slice);
}

}  // namespace gpucoron
