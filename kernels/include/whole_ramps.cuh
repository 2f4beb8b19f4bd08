// Fit of whole ramps: one segment of good groups, with DO_NOT_USE before and after it at most. Most ramps are like this.
//
// One pass over the samples fits the line, checks the flags and counts the differences in bins about their probable median; a
// second one picks the median from its bin. So few differences that all of them can be stored need one pass. The results
// have the bits of `fit_ramp`, which fits what is left: other flags, and medians that are not where they were expected.
#pragma once

#include "ramp_fit.cuh"
#include "slice_median.cuh"

namespace gpucoron {

// Quotients of finite samples and a time, in float64; -0 becomes 0.
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
    return fma(fma(-quotient, number, double(sample)), inverse, quotient);
  }
};

// The good groups of a ramp, unless its flags turn out to be others.
struct WholeRamp {
  // Groups whose reads do not wait for each other: more need more registers.
  static constexpr int AT_ONCE = 4;
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

  // Visit (group, sample) of all groups but the first. With CHECKS, stop at groups with flags; return whether there are none.
  template <bool CHECKS, class Visit>
  __device__ bool each_later_sample(const Visit& visit) const {
    int group = start + 1;
    const float* place = data + group * stride;
    const uint8* flags = groupdq + group * stride;
    uint32 any = 0;
    for (; group + AT_ONCE <= stop; group += AT_ONCE) {
      float samples[AT_ONCE];
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) {
        samples[j] = sample_at(place);
        place += stride;
        if (CHECKS) any |= *flags;
        flags += stride;
      }
      if (CHECKS && any != 0) return false;
#pragma unroll
      for (int j = 0; j < AT_ONCE; ++j) visit(group + j, samples[j]);
    }
    for (; group < stop; ++group) {
      visit(group, sample_at(place));
      place += stride;
      if (CHECKS) any |= *flags;
      flags += stride;
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

// Fit a ramp if it is whole and finite, and return whether it is. SHORT: for at most MOST_SORTED + 1 groups.
template <bool SHORT>
__device__ bool fit_whole_ramp(const WholeRamp& ramp, const NumberSlice& slice, const Detector& detector, const Weights& weights,
                               const Times& times, const SampleDivisor& rate_of, RampFit& fit) {
  const int length = ramp.length(), n_differences = length - 1;
  if (length < 3 || length >= LONGEST_IN_STATE || !rate_of.is_usable()) return false;
  if (ramp.groupdq[ramp.start * ramp.stride] != 0) return false;
  EqualBins<float> bins{};
  if (!SHORT) {
    if (n_differences < WholeRamp::PROBES) return false;
    bins = ramp.guess(rate_of);
    if (!bins.is_usable()) return false;
    slice.clear();
  }

  const float first_sample = ramp.sample(ramp.start);
  const double rise = double(ramp.sample(ramp.stop - 1)) - double(first_sample);
  const float* const first_weight = weights_of_rise(weights, detector, length, rise);
  const double inverse_variance = 1.0 / (detector.read_noise * detector.read_noise);
  const double variance = read_variance(detector, length, FITTED, times);
  LineSums sums;
  sums.add(ramp.start, first_sample, Weights::at(first_weight, 0, length) * inverse_variance);
  double previous = rate_of(first_sample);
  const auto add = [&](int group, float sample) {
    const double current = rate_of(sample);
    if (SHORT) {
      slice.put(group - ramp.start - 1, current - previous);
    } else {
      slice.count(bins.of(current - previous));
    }
    previous = current;
    sums.add(group, sample, Weights::at(first_weight, group - ramp.start, length) * inverse_variance);
  };
  // A sample that is not finite makes a sum that is not.
  if (!ramp.each_later_sample<true>(add) || !is_finite(sums.y)) return false;

  int rank = (n_differences - 1) / 2;
  const bool even = n_differences % 2 == 0;
  double rate;
  if (SHORT) {
    slice.sort(rank + even, n_differences);
    rate = even ? (slice.value(rank) + slice.value(rank + 1)) / 2.0 : slice.value(rank);
  } else {
    const int bin = slice.bin_of(rank);
    Portion found = Portion::none();
    previous = rate_of(first_sample);
    const auto collect = [&](int, float sample) {
      const double current = rate_of(sample);
      const double difference = current - previous;
      previous = current;
      const int its = bins.of(difference);
      if (its == bin) found.add(difference, slice);
      if (its > bin) found.pass_over(difference);
    };
    ramp.each_later_sample<false>(collect);
    if (!found.has(rank)) return false;
    rate = found.median(rank, even, slice);
  }

  const double slope = sums.line(times.group).slope;
  fit = {rate, 0.0 + slope / variance, 1.0 / variance, state_of_segments(1, 0, length), 0u};
  return true;
}

}  // namespace gpucoron
