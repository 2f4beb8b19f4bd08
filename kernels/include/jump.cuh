// Jumps of one pixel by two-point differences (Anderson & Gordon 2011, PASP 123, 1237), as stcal 1.20 finds them.
//
// Samples are electrons, float32, NaN in unusable groups; differences are float32, decisions float64. A pixel's differences
// are read in units of 32 groups of one integration; lanes process units in turn. They stay in the slices of shared memory if
// these can hold them, otherwise they are streamed from memory again for each use.
#pragma once

#include "lanes.cuh"
#include "order_statistics.cuh"
#include "slices.cuh"

namespace gpucoron {

enum SearchMode { ONE_PASS, ITERATIVE, AFTER_CLIPPING };

// Samples that a thread loads before it uses the first of them.
constexpr int IN_FLIGHT = 8;

// Return the value. The compiler cannot compute anything with the result earlier, while more loads could begin.
__device__ inline float not_before_here(float value) {
#ifdef __CUDACC__
  asm volatile("" : "+f"(value));
#endif
  return value;
}

struct PixelRamps {
  const float* data;  // both at the pixel's first sample
  uint8* groupdq;
  float gain;
  int n_ints;
  int n_groups;
  int64 n_pixels;

  __device__ int n_units() const { return n_ints * words_of(n_groups); }

  __device__ float sample(int64 frame) const {
    count_reads(1);
    // Load both before using either. (Another thread may be setting JUMP_DET in the byte; the bits that are read here do not
    // change.)
    const float counts = data[frame * n_pixels];
    return electrons(counts, groupdq[frame * n_pixels]);
  }

  // Call visit(frame, bit, dq, difference, exists) for the groups of each unit of this lane, and then finish(unit). The
  // difference is sample(frame) - sample(frame - 1), and NaN for the first group of an integration; `bit` is its number.
  // After the last group, `exists` is false up to a multiple of IN_FLIGHT, and the only flag is DO_NOT_USE.
  template <class Lanes, class Visit, class Finish>
  __device__ void scan(Visit visit, Finish finish) const {
    const int n_words = words_of(n_groups);
    for (int unit = Lanes::index(); unit < n_units(); unit += WARP_THREADS / Lanes::PIXELS) {
      const int start = unit % n_words * WORD_GROUPS;
      const int n_here = smaller(WORD_GROUPS, n_groups - start);
      const int64 first = int64(unit / n_words) * n_groups + start;
      int64 place = first * n_pixels;
      const int64 before = start == 0 ? place : place - n_pixels;
      float carried = data[before];
      uint32 carried_flags = start == 0 ? DO_NOT_USE : groupdq[before];
      count_reads(start > 0);
      for (int at = 0; at < n_here; at += IN_FLIGHT) {
        float counts[IN_FLIGHT];
        uint32 flags[IN_FLIGHT];
        count_reads(smaller(IN_FLIGHT, n_here - at));
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; ++i) {
          counts[i] = data[place];
          flags[i] = groupdq[place];
          // After the last group, load it again: with branches, the compiler would load each sample just before its use.
          place += at + i < n_here - 1 ? n_pixels : 0;
        }
        uint32 all_flags = carried_flags;
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; ++i) {
          if (at + i >= n_here) flags[i] = DO_NOT_USE;
          all_flags |= flags[i];
        }
        // A branch that needs all flags, so that all loads begin before it.
        if (all_flags & UNUSABLE) {
          if (carried_flags & UNUSABLE) carried = float_nan();
#pragma unroll
          for (int i = 0; i < IN_FLIGHT; ++i)
            if (flags[i] & UNUSABLE) counts[i] = float_nan();
        }
        carried_flags = 0;
        float previous = not_before_here(carried) * gain;
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; ++i) {
          const float current = counts[i] * gain;
          visit(first + at + i, at + i, flags[i], current - previous, at + i < n_here);
          previous = current;
        }
        carried = counts[IN_FLIGHT - 1];
      }
      finish(unit);
    }
  }

  template <class Lanes, class Visit>
  __device__ void each_difference(Visit visit) const {
    scan<Lanes>([&](int64, int, uint32, float difference, bool) { visit(difference); }, [](int) {});
  }

  // The same, sample by sample: shorter code for what is rare.
  template <class Lanes, class Visit>
  __device__ void each_difference_in_turn(Visit visit) const {
    const int n_words = words_of(n_groups);
    for (int unit = Lanes::index(); unit < n_units(); unit += WARP_THREADS / Lanes::PIXELS) {
      const int start = unit % n_words * WORD_GROUPS;
      const int stop = smaller(start + WORD_GROUPS, n_groups);
      const int64 first_frame = int64(unit / n_words) * n_groups;
      int group = larger(start, 1);
      float previous = sample(first_frame + group - 1);
#pragma unroll 1
      for (; group < stop; ++group) {
        const float current = sample(first_frame + group);
        visit(current - previous);
        previous = current;
      }
    }
  }

  // Call visit(frame, difference) for one group of all integrations.
  template <class Visit>
  __device__ void each_difference_of_group(int group, Visit visit) const {
    int64 place = (group - 1) * n_pixels;
    for (int at = 0; at < n_ints; at += IN_FLIGHT) {
      float counts[2 * IN_FLIGHT];
      uint32 flags[2 * IN_FLIGHT], all_flags = 0;
      count_reads(2 * smaller(IN_FLIGHT, n_ints - at));
#pragma unroll
      for (int i = 0; i < IN_FLIGHT; ++i) {
        counts[2 * i] = data[place];
        flags[2 * i] = groupdq[place];
        counts[2 * i + 1] = data[place + n_pixels];
        flags[2 * i + 1] = groupdq[place + n_pixels];
        place += at + i < n_ints - 1 ? n_groups * n_pixels : 0;
      }
#pragma unroll
      for (int i = 0; i < 2 * IN_FLIGHT; ++i) all_flags |= flags[i];
      if (all_flags & UNUSABLE) {
#pragma unroll
        for (int i = 0; i < 2 * IN_FLIGHT; ++i)
          if (flags[i] & UNUSABLE) counts[i] = float_nan();
      }
#pragma unroll
      for (int i = 0; i < IN_FLIGHT; ++i) {
        const float difference = counts[2 * i + 1] * gain - counts[2 * i] * gain;
        if (at + i < n_ints) visit(int64(at + i) * n_groups + group, difference);
      }
    }
  }

  // Find the quartiles of some differences, spread over the ramp; false if there are too few.
  template <class Lanes>
  __device__ bool find_quartiles(const Slice& slice, float& low, float& high) const {
    constexpr int LANES = WARP_THREADS / Lanes::PIXELS;
    const SliceSeries sampled{slice, smaller(slice.length, LANES == 1 ? 64 : 32)};
    const int n_each = n_groups - 1;
    if (n_each < 1) return false;
    // The steps must not always meet the same group.
    int step = larger(1, int(int64(n_ints) * n_each / (sampled.count * LANES)));
    if (step > 1 && step % n_each == 0) --step;
#pragma unroll 4
    for (int i = 0; i < sampled.count; ++i) {
      const int number = smaller(step * (i * LANES + Lanes::index()), n_ints * n_each - 1);
      const int64 frame = int64(number / n_each) * n_groups + number % n_each + 1;
      const float previous = sample(frame - 1);
      slice.store(i, sample(frame) - previous);
    }
    const Survey<float> all = survey<float, Lanes>(sampled);
    if (all.count < 2) return false;
    // So few values that the median of all may be outside of their quartiles: take the extremes.
    const int rank = all.count < 32 ? 0 : all.count / 4;
    low = select_rank<float, Lanes>(sampled, rank, all.low, all.high, false).at;
    high = select_rank<float, Lanes>(sampled, all.count - 1 - rank, key_of(low), all.high, false).at;
    if (low == high) {
      const float margin = larger(1e-5f * (low < 0.0f ? -low : low), 1e-30f);
      low -= margin;
      high += margin;
    }
    return true;
  }

 private:
  __device__ float electrons(float counts, uint32 dq) const {
    const float electrons = counts * gain;
    return (dq & UNUSABLE) ? float_nan() : electrons;
  }
};

// Noise of a difference, electrons: Poisson noise of the median and read noise; NaN instead of zero, so that pixels without
// noise have no jumps.
__device__ inline double difference_noise(double median, double read_variance) {
  const double noise = sqrt((median < 0.0 ? -median : median) + read_variance);
  return noise == 0.0 ? double_nan() : noise;
}

__device__ inline double magnitude(double value) { return value < 0.0 ? -value : value; }

// Differences with magnitudes outside [low, high] are jumps. The bounds are keys of float32 magnitudes.
struct QuietRange {
  uint32 low;
  uint32 high;
};

// Values outside [low, high] may be jumps; NaN never are.
struct QuietValues {
  float low;
  float high;

  __device__ bool exclude(float value) const { return value < low || value > high; }
};

__device__ inline QuietValues all_quiet() { return {-float_infinity(), float_infinity()}; }

__device__ inline QuietValues values_of(const QuietRange& range) {
  if (range.low > range.high) return {0.0f, -1.0f};
  return {value_of<float>(range.low), value_of<float>(range.high)};
}

// The next larger or smaller float.
__device__ inline float stepped(float value, int step) {
  return is_finite(value) ? value_of<float>(key_of(value) + uint32(step)) : value;
}

// The range in which the excess of a difference surely is below the threshold, whatever the median in [low, high] is. A
// difference outside of it needs a division by the noise.
__device__ inline QuietValues quiet_about(double low, double high, double read_variance, double threshold) {
  const double smallest = low > 0.0 ? low : high < 0.0 ? -high : 0.0;
  const double excess = threshold * sqrt(smallest + read_variance) * (1.0 - 1e-9);
  return {stepped(float(high - excess), 1), stepped(float(low + excess), -1)};
}

__device__ inline float magnitude(float value) { return __uint_as_float(__float_as_uint(value) & 0x7fffffffu); }

// Remove the largest excess repeatedly, until none exceeds the threshold, as stcal does for few differences.
//
// The remaining magnitudes are always a range of the sorted ones, because the excess |d - median| is largest at one end. So
// only the two ends are stored, and no sample is marked. `scan` streams magnitudes.
template <class Lanes, class Scan>
__device__ QuietRange find_quiet_range(const Scan& scan, double read_variance, double threshold, double three_groups,
                                       double four_groups) {
  Survey<float> left = survey<float, Lanes>(scan);
  int n_below = 0;  // jumps smaller than all remaining values
  bool first_round = true;

  // The number of values equal to one end of the range, and the next value inside.
  struct End {
    int ties;
    uint32 next;
  };
  auto look_at_end = [&](bool high) {
    const uint32 end = high ? left.high : left.low;
    int ties = 0;
    uint32 next = high ? 0u : ~0u;
    scan([&](float value) {
      if (is_nan(value)) return;
      const uint32 key = key_of(value);
      ties += key == end;
      if (high && key < end) next = larger(next, key);
      if (!high && key > end) next = smaller(next, key);
    });
    return End{Lanes::sum(ties), high ? Lanes::maximum(next) : Lanes::minimum(next)};
  };

  while (left.count >= 2) {
    const double limit = left.count >= 4 ? threshold : left.count == 3 ? four_groups : three_groups;
    double median = value_of<float>(left.low);  // for two values, the smaller one
    if (left.count > 2) {
      // For four or more values, the median excludes all values equal to the largest.
      const int kept = left.count - (left.count >= 4 ? look_at_end(true).ties : 0);
      median = median_of_ranks<float, Lanes>(scan, n_below, kept, left.low, left.high);
    }
    // stcal rounds the median to float32 from the second round on.
    if (!first_round) median = double(float(median));
    first_round = false;

    const double noise = difference_noise(median, read_variance);
    auto ratio = [&](uint32 key) { return magnitude(double(float(double(value_of<float>(key)) - median))) / noise; };
    const double at_high = ratio(left.high);
    const double at_low = ratio(left.low);
    const double largest = at_low > at_high ? at_low : at_high;
    if (!(largest > limit)) break;

    // Neighbouring values can have the same rounded excess: remove all of them, at both ends.
    for (bool high = true; left.count > 0;) {
      if (ratio(high ? left.high : left.low) == largest) {
        const End end = look_at_end(high);
        left.count -= end.ties;
        if (high) {
          left.high = end.next;
        } else {
          left.low = end.next;
          n_below += end.ties;
        }
      } else if (high) {
        high = false;
      } else {
        break;
      }
    }
  }
  if (left.count < 1) return {~0u, 0u};
  return {left.low, left.high};
}

// Bounds of a series after sigma clipping about the median, as astropy's sigma_clip with its default five rounds. Infinite
// numbers and NaN are ignored.
struct Bounds {
  double low;
  double high;
};

constexpr float LEAST_FLOAT = -3.402823466e+38f;

// The least float that is at least, or the largest that is at most, a float64.
__device__ inline float float_from(double value) {
  const float nearest = float(value);
  return double(nearest) < value ? value_of<float>(key_of(nearest) + 1u) : nearest;
}

__device__ inline float float_up_to(double value) { return -float_from(-value); }

template <class Scan>
__device__ Bounds clip_about_median(const Scan& scan, double n_sigma) {
  constexpr int ROUNDS = 5;
  using Alone = Lanes<1>;
  Bounds bounds{double_nan(), double_nan()};
  Bounds narrowest = bounds;  // clipped values stay clipped, even if later bounds are wider
  float low = LEAST_FLOAT, high = -LEAST_FLOAT;
  int count = -1;
  for (int round = 0; round <= ROUNDS; ++round) {
    auto kept = [&](auto visit) {
      scan([&](float value) {
        if (value >= low && value <= high) visit(value);
      });
    };
    int left = 0;
    double mean = 0.0;
    kept([&](float value) {
      ++left;
      mean += double(value);
    });
    if (left == count || left == 0 || round == ROUNDS) break;
    count = left;
    mean /= count;
    double variance = 0.0;
    kept([&](float value) { variance += (mean - value) * (mean - value); });
    const double deviation = sqrt(variance / count);
    // The median differs from the mean by less than the deviation, and most often by much less.
    uint32 least = key_of(low == 0.0f ? -0.0f : low), most = key_of(high == 0.0f ? 0.0f : high);
    narrow_bracket<Alone>(kept, (count - 1) / 2, float(mean - deviation / 2), float(mean + deviation / 2), least, most);
    const double median = median_of_ranks<float, Alone>(kept, 0, count, least, most);
    bounds.low = median - n_sigma * deviation;
    bounds.high = median + n_sigma * deviation;
    narrowest.low = round == 0 ? bounds.low : larger(narrowest.low, bounds.low);
    narrowest.high = round == 0 ? bounds.high : smaller(narrowest.high, bounds.high);
    low = float_from(narrowest.low);
    high = float_up_to(narrowest.high);
  }
  return bounds;
}

}  // namespace gpucoron
