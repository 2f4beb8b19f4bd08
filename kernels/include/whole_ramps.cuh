// Fit of whole ramps: one segment of good groups, with DO_NOT_USE before and after it at most. Most ramps are like this.
//
// One pass over the samples fits the line, checks the flags and counts the differences in bins about their probable median; a
// second one picks the median from its bin. So few differences that all of them can be stored need one pass. The results
// have the bits of `fit_ramp`, which fits what is left: other flags, and medians that are not where they were expected.
#pragma once

#include "ramp_fit.cuh"
#include "slice_median.cuh"

namespace gpucoron {

// Quotients of samples and a time, in float64.
//
// A product with the inverse is wrong by at most two units of the last place. The fused remainder is exact, and corrects it to
// within 2^-105 of the quotient, while no quotient of numbers with 24 bits is nearer than 2^-78 to the middle of two float64
// numbers. So it is rounded as by a division (Markstein 1990, IBM J. Res. Dev. 34, 111).
struct SampleDivisor {
  double number;  // a time that was rounded to float32
  double inverse;

  __device__ bool is_usable() const { return number > 0.0 && is_finite(number) && is_finite(inverse); }
  __device__ double operator()(float sample) const {
    const double quotient = sample * inverse;
    const double corrected = fma(fma(-quotient, number, double(sample)), inverse, quotient);
    // zeros keep their sign, and infinite samples stay infinite
    return sample != 0.0f && is_finite(sample) ? corrected : quotient;
  }
};

// The good groups of a ramp, unless its flags turn out to be others. AT_ONCE: groups whose reads do not wait for each other.
template <int AT_ONCE>
struct WholeRamp {
  // Differences in the middle of the ramp that show its noise.
  static constexpr int PROBES = 16;

  const float* data;
  const uint8* groupdq;
  int64 stride;
  int start;
  int stop;

  __device__ static WholeRamp find(const float* data, const uint8* groupdq, int64 stride, int n_groups) {
    int start = 0, stop = n_groups;
    while (start < stop && groupdq[start * stride] == DO_NOT_USE) ++start;
    while (stop > start && groupdq[(stop - 1) * stride] == DO_NOT_USE) --stop;
    return {data, groupdq, stride, start, stop};
  }

  __device__ int length() const { return stop - start; }
  __device__ float sample(int group) const { return sample_at(data + group * stride); }

  // Visit (group, sample) of all groups; stop and return false if check(group, n) is false for some groups.
  template <class Check, class Visit>
  __device__ bool each_sample(const Check& check, const Visit& visit) const {
    int group = start;
    for (; group + AT_ONCE <= stop; group += AT_ONCE) {
      float samples[AT_ONCE];
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) samples[j] = sample(group + j);
      if (!check(group, AT_ONCE)) return false;
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) visit(group + j, samples[j]);
    }
    if (!check(group, stop - group)) return false;
    for (; group < stop; ++group) visit(group, sample(group));
    return true;
  }

  // Whether groups have no flags.
  __device__ bool is_good(int group, int n) const {
    uint32 any = 0;
    if (n == AT_ONCE) {
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) any |= groupdq[(group + j) * stride];
    } else {
      for (int j = 0; j < n; ++j) any |= groupdq[(group + j) * stride];
    }
    return any == 0;
  }

  // Where to look for the median difference.
  __device__ EqualBins<float> guess(const SampleDivisor& rate_of) const {
    const int n = length() - 1;
    const float mean = float(rate_of(sample(stop - 1)) - rate_of(sample(start))) / float(n);
    const int first = start + (n - PROBES) / 2;
    double previous = rate_of(sample(first));
    float deviation = 0.0f;
#pragma unroll 4
    for (int j = 1; j <= PROBES; ++j) {
      const double current = rate_of(sample(first + j));
      const float difference = float(current - previous) - mean;
      deviation += difference < 0.0f ? -difference : difference;
      previous = current;
    }
    return EqualBins<float>::about(mean, deviation / PROBES, n);
  }
};

// Fit a ramp if it is whole, and return whether it is. SHORT: for at most MOST_SORTED + 1 groups.
template <bool SHORT, class Ramp>
__device__ bool fit_whole_ramp(const Ramp& ramp, const Slice& slice, const Detector& detector, const Weights& weights,
                               const Times& times, RampFit& fit) {
  const SampleDivisor rate_of{times.group, 1.0 / times.group};
  const int length = ramp.length();
  if (length < 3 || length >= LONGEST_IN_STATE || !rate_of.is_usable()) return false;
  EqualBins<float> bins{};
  if (!SHORT) {
    if (length - 1 < Ramp::PROBES) return false;
    bins = ramp.guess(rate_of);
    if (!bins.is_usable()) return false;
    slice.clear();
  }

  const double rise = double(ramp.sample(ramp.stop - 1)) - double(ramp.sample(ramp.start));
  const float* const first = weights_of_rise(weights, detector, length, rise);
  const double inverse_variance = 1.0 / (detector.read_noise * detector.read_noise);
  LineSums sums;
  Portion found = Portion::none();
  int count = 0;
  double previous = double_nan();
  const auto is_good = [&](int group, int n) { return ramp.is_good(group, n); };
  const auto add = [&](int group, float sample) {
    const double current = rate_of(sample);
    const double difference = current - previous;
    previous = current;
    if (!is_nan(difference)) {
      if (SHORT) {
        slice.put(count, difference);
      } else {
        slice.count(bins.of(difference));
      }
      ++count;
    }
    sums.add(group, sample, Weights::at(first, group - ramp.start, length) * inverse_variance);
  };
  if (!ramp.each_sample(is_good, add) || count == 0) return false;

  int rank = (count - 1) / 2;
  const bool even = count % 2 == 0;
  double rate;
  if (SHORT) {
    slice.sort(rank + even, count);
    rate = even ? (slice.value(rank) + slice.value(rank + 1)) / 2.0 : slice.value(rank);
  } else {
    const int bin = slice.bin_of(rank);
    previous = double_nan();
    const auto collect = [&](int, float sample) {
      const double current = rate_of(sample);
      const double difference = current - previous;
      previous = current;
      if (is_nan(difference)) return;
      const int its = bins.of(difference);
      if (its == bin) found.add(difference, slice);
      if (its > bin) found.pass_over(difference);
    };
    ramp.each_sample([](int, int) { return true; }, collect);
    if (!found.has(rank)) return false;
    rate = found.median(rank, even, slice);
  }
  if (is_nan(rate)) rate = 0.0;

  const double variance = read_variance(detector, length, FITTED, times);
  const double slope = sums.line(times.group).slope;
  fit = {rate, 0.0 + slope / variance, 1.0 / variance, state_of_segments(1, 0, length), 0u};
  return true;
}

}  // namespace gpucoron
