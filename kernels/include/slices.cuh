// Slices of shared memory, one for each thread, and medians of long series with their help.
//
// A series that fits into the slices of the threads that share it is read from memory once. The median of a longer one needs
// two scans: one counts the values in bins about the median, as fine as a slice has words, and one gathers the values of the
// bins of the two middle ones. Threads only use their own slices and never wait for each other.
#pragma once

#include "lanes.cuh"
#include "order_statistics.cuh"

// In the builds for a CPU, a worker runs the threads of a block in turn.
#ifndef GPUCORON_SLICES
#define GPUCORON_SLICES __shared__
#endif

// Words that the threads of a block share out: 32 KB, so that registers, not memory, limit the resident blocks. A macro, so that
// tests can change it.
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
  __device__ double edge(int bin) const { return double(start) + double(bin) / double(scale); }
};

// The bins that contain the two middle values of a series, which are the same if its length is odd.
struct MiddleBins {
  Bins bins;
  int count;    // numbers in the series
  int n_below;  // numbers in bins before `first`
  int first;
  int last;

  // Bounds of the median. `place` is wrong by much less than a bin.
  __device__ double low() const { return bins.edge(first - 1); }
  __device__ double high() const { return bins.edge(last + 2); }

  __device__ bool contain(float value) const {
    const float place = bins.place(value);
    return place >= float(first) && place < float(last + 1);
  }
};

// Find the bins of the middle values, such that the slices can hold all values in them; return false if this needs more than
// three scans. [low, high] should contain the median and many other values.
template <class Lanes, class Scan>
__device__ bool find_middle_bins(const Scan& scan, const Slice& slice, float low, float high, MiddleBins& middle) {
  constexpr int ATTEMPTS = 3;
  for (int attempt = 0; attempt < ATTEMPTS; ++attempt) {
    const Bins bins = Bins::between(low, high, slice.length);
    if (!bins.are_usable()) return false;
    for (int bin = 0; bin < slice.length; ++bin) slice[bin] = 0;
    int count = 0;
    scan([&](float value) {
      count += !is_nan(value);
      ++slice[int(bins.place(value))];
    });
    middle = {bins, Lanes::sum(count), 0, -1, 0};
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
    const int held = int(slice[middle.first]) + (middle.last > middle.first ? int(slice[middle.last]) : 0);
    const bool is_inside = middle.first > 0 && middle.last < slice.length - 1;
    if (is_inside && Lanes::maximum(held) <= slice.length) return true;

    // Look closer, or farther away.
    constexpr float FARTHER = 32.0f;
    const float width = high - low, start = low;
    if (middle.first > 0) low = float(middle.first < slice.length - 1 ? middle.low() : double(high));
    if (middle.last < slice.length - 1) high = float(middle.last > 0 ? middle.high() : double(start));
    if (middle.first == 0) low = start - FARTHER * width;
    if (middle.last == slice.length - 1) high = start + FARTHER * width;
  }
  return false;
}

// The median of numbers of which those in the middle bins are in the slices.
template <class Lanes>
__device__ double median_of_bins(const MiddleBins& middle, const SliceSeries& gathered) {
  const Survey<float> all = survey<float, Lanes>(gathered);
  return median_of_ranks<float, Lanes>(gathered, -middle.n_below, middle.count, all.low, all.high);
}

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
