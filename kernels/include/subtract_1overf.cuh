// 1/f noise along lines: medians and robust means of good samples, bridges over holes, Savitzky-Golay smoothing.
#pragma once

#include "block.cuh"
#include "lanes.cuh"
#include "order_statistics.cuh"

namespace gpucoron {

// Window of the smoothing at the sides of holes, and the smallest one for which a cubic is fitted.
constexpr int BRIDGE = 33;
constexpr int LEAST_WINDOW = 5;
// As in backends/statistics.py.
constexpr float CUT = 3.0f;
constexpr double TINY = 2.220446049250313e-16;
constexpr float MEAN_DEVIATION_OF_NORMAL = 0.8f;
// As in operations/subtract_1overf/background.py: connected pixels of a source.
constexpr int SOURCE_PIXELS = 7;

// The median of a series in float32; NaN without values.
template <class Group, class Scan>
__device__ float float_median(const Scan& scan) {
  const Survey<float> all = survey<float, Group>(scan);
  if (all.count < 1) return float_nan();
  const bool even = all.count % 2 == 0;
  const Ranked<float> middle = select_rank<float, Group>(scan, (all.count - 1) / 2, all.low, all.high, even);
  return even ? (middle.at + middle.next) / 2.0f : middle.at;
}

__device__ inline float absolute(float value) { return value < 0.0f ? -value : value; }

// The standard deviation of a normal distribution with this median deviation, or, where that is zero, this mean deviation.
__device__ inline float sigma_of(float mad, float mean_deviation, float mad_to_sigma) {
  const float sigma = mad * mad_to_sigma;
  return sigma < float(TINY) ? mean_deviation / MEAN_DEVIATION_OF_NORMAL : sigma;
}

// An image smoothed by a Gaussian of five pixels at (y, x), in the order of background.py: along columns, then along the
// row. value(y, x) is only called inside the image; outside are zeros.
template <class Value>
__device__ float convolve(const Value& value, int y, int x, int ny, int nx, float middle, float next, float last) {
  auto at = [&](int row, int column) { return row < 0 || row >= ny ? 0.0f : value(row, column); };
  auto along = [&](int column) {
    if (column < 0 || column >= nx) return 0.0f;
    float sum = at(y, column) * middle;
    sum += (at(y - 1, column) + at(y + 1, column)) * next;
    sum += (at(y - 2, column) + at(y + 2, column)) * last;
    return sum;
  };
  float sum = along(x) * middle;
  sum += (along(x - 1) + along(x + 1)) * next;
  sum += (along(x - 2) + along(x + 2)) * last;
  return sum;
}

// Whether the marked pixel (y, x) belongs to at least SOURCE_PIXELS marked pixels that are connected over edges. In so many
// steps less one, a search reaches as many pixels, or all.
__device__ inline bool is_source(const uint8* marked, int y, int x, int ny, int nx) {
  constexpr int reach = SOURCE_PIXELS - 1;
  constexpr int side = 2 * reach + 1;
  unsigned there[side], found[side];
#pragma unroll
  for (int i = 0; i < side; ++i) {
    there[i] = found[i] = 0;
    const int row = y + i - reach;
    if (row < 0 || row >= ny) continue;
    const int width = reach - (i < reach ? reach - i : i - reach);
    for (int column = larger(x - width, 0); column <= smaller(x + width, nx - 1); ++column)
      if (marked[int64(row) * nx + column]) there[i] |= 1u << (column - x + reach);
  }
  found[reach] = 1u << reach;
  int count = 1;
  for (int step = 0; step < reach; ++step) {
    int n = 0;
    unsigned above = 0;
#pragma unroll
    for (int i = 0; i < side; ++i) {
      const unsigned here = found[i];
      const unsigned below = i + 1 < side ? found[i + 1] : 0u;
      found[i] = (here | here << 1 | here >> 1 | above | below) & there[i];
      above = here;
      n += __popc(found[i]);
    }
    if (n >= SOURCE_PIXELS) return true;
    if (n == count) return false;
    count = n;
  }
  return false;
}

// The resistant mean of a row (IDL Astronomy User's Library), see backends/statistics.py; 0 without values. `row(visit)`
// visits this lane's good values. narrowing: width of a Gaussian after the cut.
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

// The value at sample `index` of the cubic fit to the window around it, in a line without holes. projections: the matrices
// for windows of 5, 7, ... 33 samples.
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

// Sample `at` of a line smoothed by cubics; the ends use the cubics of the end windows. projection : (window, window).
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
