// Slices of shared memory, one for each thread, and medians of long series with their help.
//
// A series that fits into the slices of the threads that share it is read from memory once. The median of a longer one needs
// two scans: one counts the values in bins about the median, as many as a slice has words, and one gathers the values of the
// bins of the two middle ones. Threads only use their own slices and never wait for each other.
#pragma once

#include "lanes.cuh"
#include "order_statistics.cuh"

// Words that the threads of a block share out: 32 KB, so that registers, not memory, limit the resident blocks. A macro, so
// that tests can change it.
#ifndef GPUCORON_SLICE_WORDS
#define GPUCORON_SLICE_WORDS 8192
#endif

namespace gpucoron {

// The words of a thread are `blockDim.x` apart, so that the threads of a warp use different banks.
struct Slice {
  uint32* words;
  int length;

  __device__ static Slice of_thread(uint32* pool, int n_words) { return {pool + threadIdx.x, n_words / int(blockDim.x)}; }

  __device__ uint32& operator[](int i) const { return words[i * int(blockDim.x)]; }
  __device__ float value(int i) const { return __uint_as_float((*this)[i]); }
  __device__ void store(int i, float value) const { (*this)[i] = __float_as_uint(value); }
};

// A series in a slice, for the functions of order_statistics.cuh.
struct SliceSeries {
  Slice slice;
  int count;

  template <class Visit>
  __device__ void operator()(Visit visit) const {
#pragma unroll 4
    for (int i = 0; i < count; ++i) visit(slice.value(i));
  }
};

// Bins of equal width. `place` rises with the value: 0 below the first edge, n_bins - 1 for large values and NaN. Its whole
// part is the bin.
struct Bins {
  float start;
  float scale;
  int n_bins;

  __device__ static Bins between(float low, float high, int n_bins) {
    const float scale = float(n_bins - 2) / (high - low);
    return {low - 1.0f / scale, scale, n_bins};
  }

  __device__ bool are_usable() const { return scale > 0.0f && is_finite(scale) && is_finite(start); }

  __device__ float place(float value) const {
    const float last = float(n_bins - 1);
    const float at = (value - start) * scale;
    const float below = at < last ? at : last;
    return below > 0.0f ? below : 0.0f;
  }

  // An edge of the bins; without rounding errors it would be exact.
  __device__ double edge(double bin) const { return double(start) + bin / double(scale); }
};

// The bins of the two middle values of a series. If its length is odd, both are the same value.
struct MiddleBins {
  Bins bins;
  int count;    // numbers in the series
  int n_below;  // numbers in bins before `first`
  int first;
  int last;
  bool are_crowded;  // the slices cannot hold the numbers, perhaps because they are equal

  // Bounds of the median. `place` is wrong by much less than a bin.
  __device__ double low() const { return bins.edge(first - 1); }
  __device__ double high() const { return bins.edge(last + 2); }
};

// Find the bins of the middle values, if possible such that the slices can hold the values in them. Return false if this needs
// more than four scans. [low, high] should contain the median and many other values.
template <class Lanes, class Scan>
__device__ bool find_middle_bins(const Scan& scan, const Slice& slice, float low, float high, MiddleBins& middle) {
  constexpr int ATTEMPTS = 4;
  int n_closer = 0;
  for (int attempt = 0; attempt < ATTEMPTS; ++attempt) {
    const Bins bins = Bins::between(low, high, slice.length);
    if (!bins.are_usable()) return false;
    for (int bin = 0; bin < slice.length; ++bin) slice[bin] = 0;
    int count = 0;
    scan([&](float value) {
      count += !is_nan(value);
      ++slice[int(bins.place(value))];
    });
    middle = {bins, Lanes::sum(count), 0, -1, 0, false};
    if (middle.count == 0) return true;

    const int lower = (middle.count - 1) / 2, upper = middle.count / 2;
    for (int bin = 0, up_to_bin = 0; up_to_bin <= upper; ++bin) {
      const int before = up_to_bin;
      up_to_bin += Lanes::sum(int(slice[bin]));
      if (middle.first < 0 && up_to_bin > lower) {
        middle.first = bin;
        middle.n_below = before;
      }
      middle.last = bin;
    }
    if (middle.first > 0 && middle.last < slice.length - 1) {
      const int held = int(slice[middle.first]) + (middle.last > middle.first ? int(slice[middle.last]) : 0);
      middle.are_crowded = Lanes::maximum(held) > slice.length;
      // Multiples of a step, as whole counts are, differ by their rounding errors: look closer twice.
      if (!middle.are_crowded || n_closer++ == 2) return true;
    }

    // Look closer, or farther away.
    constexpr float FARTHER = 32.0f;
    constexpr double MARGIN = 0.01;
    const float width = high - low, start = low;
    if (middle.first > 0) low = middle.first < slice.length - 1 ? float(bins.edge(middle.first - MARGIN)) : high;
    if (middle.last < slice.length - 1) high = middle.last > 0 ? float(bins.edge(middle.last + 1 + MARGIN)) : start;
    if (middle.first == 0) low = start - FARTHER * width;
    if (middle.last == slice.length - 1) high = start + FARTHER * width;
  }
  return false;
}

// The values in the middle bins: all of them in the slices or, of crowded bins, the extremes.
struct MiddleValues {
  SliceSeries kept;
  Survey<float> first{~0u, 0u, 0};
  Survey<float> last{~0u, 0u, 0};

  __device__ void take(const MiddleBins& middle, float value) {
    const float place = middle.bins.place(value);
    if (!(place >= float(middle.first) && place < float(middle.last + 1))) return;
    if (!middle.are_crowded)
      kept.slice.store(kept.count++, value);
    else if (place < float(middle.first + 1))
      widen(first, key_of(value));
    else
      widen(last, key_of(value));
  }

  // Find the median; false if a crowded bin contains different values.
  template <class Lanes>
  __device__ bool find_median(const MiddleBins& middle, double& median) const {
    if (middle.are_crowded) {
      const uint32 lower = Lanes::minimum(first.low), upper = Lanes::minimum(last.low);
      const bool is_one = middle.first == middle.last;
      if (Lanes::maximum(first.high) != lower || (!is_one && Lanes::maximum(last.high) != upper)) return false;
      const double at = value_of<float>(lower);
      median = is_one ? at : (at + double(value_of<float>(upper))) / 2.0;
    } else {
      const Survey<float> all = survey<float, Lanes>(kept);
      median = median_of_ranks<float, Lanes>(kept, -middle.n_below, middle.count, all.low, all.high);
    }
    return true;
  }

 private:
  __device__ static void widen(Survey<float>& values, uint32 key) {
    values.low = smaller(values.low, key);
    values.high = larger(values.high, key);
  }
};

// Narrow the bracket about a rank with pivots at equal steps in [start, stop], where the value probably is. The keys `low` and
// `high` enclose it.
template <class Lanes, class Scan>
__device__ void narrow_bracket(const Scan& scan, int rank, float start, float stop, uint32& low, uint32& high) {
  constexpr int PIVOTS = Keys<float>::PIVOTS;
  const float step = (stop - start) / float(PIVOTS - 1);
  if (!(step > 0.0f) || !is_finite(step) || low >= high) return;
  uint32 pivots[PIVOTS];
  int below[PIVOTS];
#pragma unroll
  for (int j = 0; j < PIVOTS; ++j) {
    pivots[j] = smaller(larger(key_of(start + step * float(j)), low + 1u), high);
    below[j] = 0;
  }
  scan([&](float value) {
    const uint32 key = is_nan(value) ? ~0u : key_of(value);
#pragma unroll
    for (int j = 0; j < PIVOTS; ++j) below[j] += key < pivots[j];
  });
  const uint32 old_high = high;
#pragma unroll
  for (int j = 0; j < PIVOTS; ++j) {
    if (Lanes::sum(below[j]) <= rank)
      low = pivots[j];
    else if (high == old_high)
      high = pivots[j] - 1u;
  }
}

}  // namespace gpucoron
