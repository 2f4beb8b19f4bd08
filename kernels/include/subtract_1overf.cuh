// 1/f noise along lines: medians and robust means of what is good, bridges over holes, Savitzky-Golay smoothing.
#pragma once

#include "block.cuh"
#include "lanes.cuh"
#include "order_statistics.cuh"

namespace gpucoron {

// Window of the smoothing that holes are bridged with, and the least one for which a cubic is fitted.
constexpr int BRIDGE = 33;
constexpr int LEAST_WINDOW = 5;
// As operations/subtract_1overf/definition.py has them.
constexpr float CUT = 3.0f;
constexpr double TINY = 2.220446049250313e-16;

// The median of a series, float32 as its values; NaN of none.
template <class Group, class Scan>
__device__ float float_median(const Scan& scan) {
  const Survey<float> all = survey<float, Group>(scan);
  if (all.count < 1) return float_nan();
  const bool even = all.count % 2 == 0;
  const Ranked<float> middle = select_rank<float, Group>(scan, (all.count - 1) / 2, all.low, all.high, even);
  return even ? (middle.at + middle.next) / 2.0f : middle.at;
}

__device__ inline float absolute(float value) { return value < 0.0f ? -value : value; }

// The mean of a row within 3 sigma of its median, sigma from what lies within 3 median deviations (resistant mean of the IDL
// Astronomy User's Library); 0 of none. `row(visit)` gives this lane's good values. narrowing: how the cut narrows a Gaussian.
template <class Group, class Row>
__device__ float robust_mean(const Row& row, float mad_to_sigma, double narrowing) {
  auto total = [&](auto value_of_sample) {
    double sum = 0.0;
    row([&](float value) { sum += value_of_sample(value); });
    return Group::sum(sum);
  };
  float median = float_median<Group>(row);
  if (is_nan(median)) median = 0.0f;
  auto deviations = [&](auto visit) {
    row([&](float value) { visit(absolute(value - median)); });
  };
  float spread = float_median<Group>(deviations);
  spread = is_nan(spread) ? 0.0f : spread * mad_to_sigma;
  if (double(spread) < TINY) {
    const double n = total([](float) { return 1.0; });
    spread = float(total([&](float value) { return double(absolute(value - median)); }) / larger(n, 1.0) / 0.8);
  }
  float reach = CUT * spread;
  auto is_near = [&](float value) { return absolute(value - median) <= reach; };
  double n = larger(total([&](float value) { return is_near(value) ? 1.0 : 0.0; }), 1.0);
  const double mean = total([&](float value) { return is_near(value) ? double(value) : 0.0; }) / n;
  const double scatter = total([&](float value) {
                           const float distance = value - float(mean);
                           return is_near(value) ? double(distance * distance) : 0.0;
                         }) / n;
  reach = CUT * float(sqrt(scatter) / narrowing);
  n = larger(total([&](float value) { return is_near(value) ? 1.0 : 0.0; }), 1.0);
  return float(total([&](float value) { return is_near(value) ? double(value) : 0.0; }) / n);
}

// The cubic fit to the window about sample `index` of a line without holes, at that sample. projections: those of the windows
// 5, 7, ... 33, one after the other.
__device__ inline double bridge_level(const float* samples, int n_samples, int index, const double* projections) {
  int window = smaller(BRIDGE, n_samples);
  window -= window % 2 == 0;
  if (window < LEAST_WINDOW) return samples[index];
  const double* projection = projections;
  for (int before = LEAST_WINDOW; before < window; before += 2) projection += before * before;
  const int start = smaller(larger(index - window / 2, 0), n_samples - window);
  projection += (index - start) * window;
  double level = 0.0;
  for (int i = 0; i < window; ++i) level += projection[i] * double(samples[start + i]);
  return level;
}

// Sample `at` of a line smoothed by cubics; the ends take those of the end windows. projection : (window, window).
__device__ inline float smooth_sample(const float* line, int length, int at, const double* projection, int window) {
  const int half = window / 2;
  double sum = 0.0;
  if (at < half || at >= length - half) {
    const int start = at < half ? 0 : length - window;
    const double* weights = projection + int64(at - start) * window;
    for (int i = 0; i < window; ++i) sum += weights[i] * double(line[start + i]);
  } else {
    const double* weights = projection + int64(half) * window + half;
    for (int step = half; step > 0; --step) sum += weights[step] * (double(line[at - step]) + double(line[at + step]));
    sum += weights[0] * double(line[at]);
  }
  return float(sum);
}

}  // namespace gpucoron
