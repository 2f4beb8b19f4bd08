// Jumps of one pixel by two-point differences (Anderson & Gordon 2011, PASP 123, 1237), as stcal 1.20 finds them.
//
// Samples are electrons, float32, NaN in unusable groups; differences are float32, decisions float64. A pixel's differences
// are streamed from memory in units of 32 groups of one integration; lanes process units in turn.
#pragma once

#include "lanes.cuh"
#include "order_statistics.cuh"

namespace gpucoron {

enum SearchMode { ONE_PASS, ITERATIVE, AFTER_CLIPPING };

struct PixelRamps {
  const float* data;  // both at the pixel's first sample
  uint8* groupdq;
  float gain;
  int n_ints;
  int n_groups;
  int64 n_pixels;

  __device__ float sample(int64 frame) const {
    // Load both before using either. (Another thread may be setting JUMP_DET in the byte; the bits that are read here do not
    // change.)
    const float electrons = data[frame * n_pixels] * gain;
    return (groupdq[frame * n_pixels] & UNUSABLE) ? float_nan() : electrons;
  }

  // Call visit(unit, group, frame, difference) for the differences of this lane: sample(frame) - sample(frame - 1).
  template <class Lanes, class Visit>
  __device__ void each_difference(Visit visit) const {
    const int n_words = words_of(n_groups);
    for (int unit = Lanes::index(); unit < n_ints * n_words; unit += WARP_THREADS / Lanes::PIXELS) {
      const int integration = unit / n_words;
      const int start = unit % n_words * WORD_GROUPS;
      const int first = larger(start, 1);
      const int stop = smaller(start + WORD_GROUPS, n_groups);
      int64 frame = int64(integration) * n_groups + first;
      float previous = sample(frame - 1);
      for (int group = first; group < stop; ++group, ++frame) {
        const float current = sample(frame);
        visit(unit, group, frame, current - previous);
        previous = current;
      }
    }
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

// Bounds of a series after sigma clipping about the median, as astropy's sigma_clip with its default five rounds.
// `scan` streams finite numbers only.
struct Bounds {
  double low;
  double high;
};

template <class Scan>
__device__ Bounds clip_about_median(const Scan& scan, double n_sigma) {
  constexpr int ROUNDS = 5;
  using Alone = Lanes<1>;
  Bounds bounds{double_nan(), double_nan()};
  Bounds narrowest = bounds;  // clipped values stay clipped, even if later bounds are wider
  int count = -1;
  for (int round = 0; round <= ROUNDS; ++round) {
    auto kept = [&](auto visit) {
      scan([&](float value) {
        if (round == 0 || (value >= narrowest.low && value <= narrowest.high)) visit(value);
      });
    };
    const Survey<float> left = survey<float, Alone>(kept);
    if (left.count == count || left.count == 0 || round == ROUNDS) break;
    count = left.count;
    double mean = 0.0;
    kept([&](float value) { mean += double(value); });
    mean /= count;
    double variance = 0.0;
    kept([&](float value) { variance += (mean - value) * (mean - value); });
    const double deviation = sqrt(variance / count);
    const double median = median_of_ranks<float, Alone>(kept, 0, count, left.low, left.high);
    bounds.low = median - n_sigma * deviation;
    bounds.high = median + n_sigma * deviation;
    narrowest.low = round == 0 ? bounds.low : larger(narrowest.low, bounds.low);
    narrowest.high = round == 0 ? bounds.high : smaller(narrowest.high, bounds.high);
  }
  return bounds;
}

}  // namespace gpucoron
