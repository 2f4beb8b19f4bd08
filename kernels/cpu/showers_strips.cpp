// The search for showers on a CPU, for neighbouring pixels at the same time. Launches: median_differences_strips or
// clip_differences_strips; find_excess_frames for each integration.
#include <algorithm>
#include <memory>
#include <vector>

#include "wide_ranks.hpp"

namespace gpucoron {

// Pixels of a strip, so that flags fill a line of the cache; fewer if the differences would need too much of it.
constexpr int MOST_IN_STRIP = 64;
constexpr std::size_t STRIP_BYTES = 1 << 19;
constexpr int LINE = 64;
// Passes of the clipping, and its limit in standard deviations.
constexpr int MOST_PASSES = 5;
constexpr double CLIPPED_BEYOND = 5.0;

using Flags = Wide<uint8, COLUMNS>;
using Floats = Wide<float, 8>;
using Doubles = Wide<double, 8>;
constexpr int HALVES = COLUMNS / 8;

// NaN in groups that are ignored: see the definition in Python. (It is no return value, because it is not always inlined.)
inline void get_electrons(const float* data, const uint8* groupdq, const Reals& gain, int n, int searched, Reals& electrons) {
  const Orders flags = convert<Orders>(load<Flags>(groupdq, n));
  Orders is_ignored = (flags >= 1) & (flags <= int(DO_NOT_USE | JUMP_DET));
  if (searched) is_ignored = ((flags & int(UNUSABLE)) != 0) | (flags == int(JUMP_DET));
  electrons = is_ignored ? all_of<Reals>(float_nan()) : load<Reals>(data, n) * gain;
}

// A column of `n` vectors of integers that start at a line of the cache; `storage` is enlarged for them.
inline int* aligned_rows(std::vector<int>& storage, std::size_t n) {
  const std::size_t number = n * COLUMNS;
  if (storage.size() < number + LINE) storage.resize(number + LINE);
  void* place = storage.data();
  std::size_t space = storage.size() * sizeof(int);
  return static_cast<int*>(std::align(LINE, number * sizeof(int), place, space));
}

// The differences of neighbouring groups of a strip, as integers of the same order: rows of COLUMNS pixels, a row for each
// integration of each difference.
struct StripDifferences {
  const float* data;
  const uint8* groupdq;
  const float* gain;
  int n_ints, n_groups;
  int64 n_pixels;
  int searched;

  int n_rows() const { return n_ints * (n_groups - 1); }

  int width() const {
    int most = MOST_IN_STRIP;
    while (most > COLUMNS && std::size_t(n_rows()) * most * sizeof(int) > STRIP_BYTES) most /= 2;
    return most;
  }

  void store_all(int64 start, int n, bool needs_finite, int* differences) const {
    const std::size_t apart = std::size_t(n_rows()) * COLUMNS;
    Reals previous[MOST_IN_STRIP / COLUMNS];
    for (int integration = 0; integration < n_ints; ++integration)
      for (int group = 0; group < n_groups; ++group) {
        const int64 frame = (int64(integration) * n_groups + group) * n_pixels + start;
        int* const row = differences + (int64(group - 1) * n_ints + integration) * COLUMNS;
        for (int at = 0; at < n; at += COLUMNS) {
          const int width = std::min(COLUMNS, n - at);
          const Reals gains = load<Reals>(gain + start + at, width);
          Reals electrons;
          get_electrons(data + frame + at, groupdq + frame + at, gains, width, searched, electrons);
          Reals difference = electrons - previous[at / COLUMNS];
          if (needs_finite) difference = difference - difference == 0.0f ? difference : all_of<Reals>(float_nan());
          if (group > 0) store(orders_of(difference), row + at / COLUMNS * apart);
          previous[at / COLUMNS] = electrons;
        }
      }
  }
};

// Find the median of each pixel's differences. medians : (ny, nx). grid: strips along y.
__global__ void median_differences_strips(const float* data, const uint8* groupdq, const float* gain, float* medians,
                                          int n_ints, int n_groups, int64 n_pixels, int searched) {
  static thread_local std::vector<int> storage;
  const StripDifferences strip{data, groupdq, gain, n_ints, n_groups, n_pixels, searched};
  const int width = strip.width(), n_rows = strip.n_rows();
  int* const differences = aligned_rows(storage, std::size_t(n_rows) * (width / COLUMNS));
  for (int64 start = blockIdx.y * int64(width); start < n_pixels; start += gridDim.y * int64(width)) {
    const int n = int(std::min(int64(width), n_pixels - start));
    strip.store_all(start, n, false, differences);
    for (int at = 0; at < n; at += COLUMNS) {
      const Rows rows{differences + std::size_t(n_rows) * at, n_rows};
      const Columns columns = survey_columns(rows);
      const Orders rank = columns.count > 0 ? (columns.count - 1) / 2 : all_of<Orders>(0);
      const RankedColumns found = select_ranks(rows, rank, columns);
      const Orders upper = (columns.count & 1) == 1 ? found.at : found.next;
      const Reals median = (reals_of(found.at) + reals_of(upper)) / 2.0f;
      store(columns.count > 0 ? median : all_of<Reals>(float_nan()), medians + start + at, std::min(COLUMNS, n - at));
    }
  }
}

// The clipped median and standard deviation of a column of each pixel, without infinite values.
struct Clipping {
  // The values, and in float64 those that are left, otherwise NaN.
  std::vector<float> values;
  std::vector<double> left;

  void measure(const Rows& rows, Reals& median, Reals& scatter) {
    const int n = rows.number;
    values.resize(std::size_t(n) * COLUMNS);
    left.resize(std::size_t(n) * COLUMNS);
    for (int row = 0; row < n; ++row) store(reals_of(rows.get(row)), values.data() + row * COLUMNS);
    const Columns columns = survey_columns(rows);
    Orders number = columns.count, first{}, rank{};
    RankedColumns ranked{};
    double low[COLUMNS], high[COLUMNS];
    std::fill(low, low + COLUMNS, double_nan());
    std::fill(high, high + COLUMNS, double_nan());
    Orders active = number > 0;
    for (int pass = 0; pass < MOST_PASSES && is_any(active); ++pass) {
      const Orders next_rank = number > 0 ? first + (number - 1) / 2 : all_of<Orders>(0);
      if (pass == 0 || is_any(next_rank != rank)) ranked = select_ranks(rows, next_rank, columns);
      rank = next_rank;
      double lower[COLUMNS], upper[COLUMNS];
      limits(number, pass == 0, ranked, lower, upper);
      for (int j = 0; j < COLUMNS; ++j) {
        low[j] = active[j] ? lower[j] : low[j];
        high[j] = active[j] ? upper[j] : high[j];
      }
      Orders now{}, below{};
      keep_between(pass == 0, low, high, now, below);
      active &= (now < number) & (now > 0);
      number = now;
      first = larger_of(first, below);
    }
    summarize(low, high, rank, ranked, rows, columns, median, scatter);
  }

 private:
  int n_rows() const { return int(values.size() / COLUMNS); }

  Doubles get(bool is_first, int row, int half) const {
    const std::size_t at = std::size_t(row) * COLUMNS + half * 8;
    return is_first ? convert<Doubles>(load<Floats>(values.data() + at)) : load<Doubles>(left.data() + at);
  }

  // The limits of a pass about the median of the values that are left.
  void limits(const Orders& number, bool is_first, const RankedColumns& ranked, double* low, double* high) const {
    const Reals at = reals_of(ranked.at), next = reals_of((number & 1) == 1 ? ranked.at : ranked.next);
    for (int half = 0; half < HALVES; ++half) {
      Doubles count, middle;
      for (int j = 0; j < 8; ++j) {
        count[j] = number[half * 8 + j];
        middle[j] = (double(at[half * 8 + j]) + double(next[half * 8 + j])) / 2.0;
      }
      Doubles sum{}, squares{};
      for (int row = 0; row < n_rows(); ++row) {
        const Doubles value = get(is_first, row, half);
        sum += value == value ? value : Doubles{};
      }
      const Doubles mean = sum / count;
      for (int row = 0; row < n_rows(); ++row) {
        const Doubles deviation = get(is_first, row, half) - mean;
        const Doubles square = deviation * deviation;
        squares += square == square ? square : Doubles{};
      }
      const Doubles reach = CLIPPED_BEYOND * square_roots(squares / count);
      store(middle - reach, low + half * 8);
      store(middle + reach, high + half * 8);
    }
  }

  // Leave the values between the limits; count them, and how many of all values are below.
  void keep_between(bool is_first, const double* low, const double* high, Orders& kept, Orders& below) {
    for (int half = 0; half < HALVES; ++half) {
      const Doubles lower = load<Doubles>(low + half * 8), upper = load<Doubles>(high + half * 8);
      decltype(Doubles{} < Doubles{}) count{}, count_below{};
      for (int row = 0; row < n_rows(); ++row) {
        const Doubles value = get(is_first, row, half);
        const auto is_between = (value >= lower) & (value <= upper);
        count -= is_between;
        count_below -= get(true, row, half) < lower;
        store(is_between ? value : all_of<Doubles>(double_nan()), left.data() + std::size_t(row) * COLUMNS + half * 8);
      }
      for (int j = 0; j < 8; ++j) {
        kept[half * 8 + j] = int(count[j]);
        below[half * 8 + j] = int(count_below[j]);
      }
    }
  }

  // The median and scatter of all values between the limits, in float32. `ranked` are the values of `rank`.
  void summarize(const double* low, const double* high, const Orders& rank, RankedColumns ranked, const Rows& rows,
                 const Columns& columns, Reals& median, Reals& scatter) {
    Orders number{}, below{};
    keep_between(true, low, high, number, below);
    const Orders wanted = number > 0 ? below + (number - 1) / 2 : all_of<Orders>(0);
    if (is_any(wanted != rank)) ranked = select_ranks(rows, wanted, columns);
    median = (reals_of(ranked.at) + reals_of((number & 1) == 1 ? ranked.at : ranked.next)) / 2.0f;
    const Reals count = convert<Reals>(number);
    Reals sum{}, squares{};
    const auto is_left = [&](int row) {
      Orders mask;
      for (int half = 0; half < HALVES; ++half) {
        const Doubles value = get(false, row, half);
        const auto part = convert<Wide<int, 8>>(value == value);
        std::memcpy(reinterpret_cast<char*>(&mask) + half * sizeof(part), &part, sizeof(part));
      }
      return mask;
    };
    for (int row = 0; row < n_rows(); ++row) sum += is_left(row) ? get_reals(row) : Reals{};
    const Reals mean = sum / count;
    for (int row = 0; row < n_rows(); ++row) {
      const Reals deviation = get_reals(row) - mean;
      squares += is_left(row) ? deviation * deviation : Reals{};
    }
    scatter = square_roots(squares / count);
    median = number > 0 ? median : all_of<Reals>(float_nan());
  }

  Reals get_reals(int row) const { return load<Reals>(values.data() + std::size_t(row) * COLUMNS); }
};

// Find the clipped median and scatter of each difference over the integrations. medians, scatters : (ngroups - 1, ny, nx).
// grid: strips along y.
__global__ void clip_differences_strips(const float* data, const uint8* groupdq, const float* gain, float* medians,
                                        float* scatters, int n_ints, int n_groups, int64 n_pixels, int searched) {
  static thread_local std::vector<int> storage;
  static thread_local Clipping clipping;
  const StripDifferences strip{data, groupdq, gain, n_ints, n_groups, n_pixels, searched};
  const int width = strip.width(), n_rows = strip.n_rows();
  int* const differences = aligned_rows(storage, std::size_t(n_rows) * (width / COLUMNS));
  for (int64 start = blockIdx.y * int64(width); start < n_pixels; start += gridDim.y * int64(width)) {
    const int n = int(std::min(int64(width), n_pixels - start));
    strip.store_all(start, n, true, differences);
    for (int at = 0; at < n; at += COLUMNS)
      for (int difference = 0; difference < n_groups - 1; ++difference) {
        const int* const rows = differences + (std::size_t(n_rows) * at + std::size_t(difference) * n_ints * COLUMNS);
        Reals median, scatter;
        clipping.measure(Rows{rows, n_ints}, median, scatter);
        const int64 place = difference * n_pixels + start + at;
        store(median, medians + place, std::min(COLUMNS, n - at));
        store(scatter, scatters + place, std::min(COLUMNS, n - at));
      }
  }
}

// The decisions about a pixel.
constexpr uint8 FOUND = 1, DOUBTFUL = 2;
// Pixels whose rings are summed together.
constexpr int SUMMED = 4 * COLUMNS;

// A frame with a frame of its own around it: ratios, 0 outside, and 1 for good ratios and outside.
struct PaddedFrame {
  std::vector<float> ratios, good;
  std::vector<double> norms;
  std::vector<float> around;
};

// Decide about a pixel with a sum in float64.
inline uint8 decide(const float* ratios, const float* good, const int* offsets, int n_offsets, double threshold, double margin) {
  double sum = 0.0, number = 0.0;
  for (int i = 0; i < n_offsets; ++i) {
    sum += ratios[offsets[i]];
    number += good[offsets[i]];
  }
  const double excess = sum - threshold * number;
  return excess > margin ? FOUND : excess < -margin ? 0 : DOUBTFUL;
}

// Find the pixels whose average over a ring exceeds the threshold, of one integration.
//
// excluded : (ny, nx); middle, noise : (ny, nx), or (ngroups - 1, ny, nx) with `apart` pixels from frame to frame; offsets : the
// ring's pixels in a frame of rows of `width`; found : (ngroups, ny, nx); counts : (ngroups, 2), of FOUND and DOUBTFUL.
// Squares are summed in blocks of `step_y` by `step_x` pixels for the bounds of the rounding: `rounding` of these sums here, and
// `transform` of stcal's. grid: frames, along y.
__global__ void find_excess_frames(const float* data, const uint8* groupdq, const uint8* excluded, const float* gain,
                                   const float* middle, const float* noise, const int* offsets, uint8* found, int* counts,
                                   int n_groups, int ny, int nx, int64 apart, int n_offsets, int reach, int width, int step_y,
                                   int step_x, double rounding, double transform,
                                   double threshold, int searched) {
  static thread_local PaddedFrame frame;
  const int64 n_pixels = int64(ny) * nx;
  const std::size_t size = std::size_t(ny + 2 * reach) * width + SUMMED;
  const int blocks_y = (ny + step_y - 1) / step_y, blocks_x = (nx + step_x - 1) / step_x;
  frame.ratios.assign(size, 0.0f);
  frame.good.assign(size, 1.0f);
  frame.around.resize(nx + SUMMED);
  const Reals nan = all_of<Reals>(float_nan());
  for (int group = 1 + int(blockIdx.y); group < n_groups; group += int(gridDim.y)) {
    // With a margin of blocks, so that each block has neighbours.
    frame.norms.assign(std::size_t(blocks_y + 2) * (blocks_x + 2), 0.0);
    const auto norm = [&](int y, int x) -> double& { return frame.norms[std::size_t(y + 1) * (blocks_x + 2) + x + 1]; };
    const int64 after = group * n_pixels, before = after - n_pixels, usual = (group - 1) * apart;
    for (int y = 0; y < ny; ++y) {
      float* const ratios = frame.ratios.data() + std::size_t(y + reach) * width + reach;
      float* const good = frame.good.data() + std::size_t(y + reach) * width + reach;
      for (int x = 0; x < nx; x += COLUMNS) {
        const int n = std::min(COLUMNS, nx - x);
        const int64 pixel = int64(y) * nx + x;
        const Reals gains = load<Reals>(gain + pixel, n);
        Reals later, earlier;
        get_electrons(data + after + pixel, groupdq + after + pixel, gains, n, searched, later);
        get_electrons(data + before + pixel, groupdq + before + pixel, gains, n, searched, earlier);
        const Reals distance = (later - earlier) - load<Reals>(middle + usual + pixel, n);
        Reals ratio = (distance < 0.0f ? -distance : distance) / load<Reals>(noise + usual + pixel, n);
        const Orders flags = convert<Orders>(load<Flags>(groupdq + after + pixel, n)) & int(UNUSABLE | JUMP_DET);
        const Orders others = convert<Orders>(load<Flags>(excluded + pixel, n));
        ratio = (flags | others) == 0 ? ratio : nan;
        const Orders is_good = ratio - ratio == 0.0f;
        store(is_good ? ratio : Reals{}, ratios + x, n);
        store(is_good ? all_of<Reals>(1.0f) : Reals{}, good + x, n);
      }
      for (int block = 0, x = 0; block < blocks_x; ++block) {
        Doubles squares{};
        for (const int end = std::min(nx, (block + 1) * step_x); x < end; x = std::min(x + 8, end)) {
          const Doubles some = convert<Doubles>(load<Floats>(ratios + x, std::min(8, end - x)));
          squares += some * some;
        }
        for (int j = 0; j < 8; ++j) norm(y / step_y, block) += squares[j];
      }
    }
    for (double& each : frame.norms) each = sqrt(each);
    int n_found = 0, n_doubtful = 0, last_place = -1;
    for (int y = 0; y < ny; ++y) {
      // A pixel depends on its block of the transforms, and where they overlap on the previous one.
      const int block_y = std::min((y + reach) / step_y, blocks_y);
      const bool overlaps_y = y + reach - block_y * step_y < 2 * reach;
      const int place = 2 * block_y + overlaps_y;
      for (int x = 0; x < nx && place != last_place; ++x) {
        const int block_x = std::min((x + reach) / step_x, blocks_x);
        const bool overlaps_x = x + reach - block_x * step_x < 2 * reach;
        double around = norm(block_y, block_x);
        if (overlaps_y) around += norm(block_y - 1, block_x);
        if (overlaps_x) around += norm(block_y, block_x - 1);
        if (overlaps_y && overlaps_x) around += norm(block_y - 1, block_x - 1);
        frame.around[x] = float(around);
      }
      last_place = place;
      const float* const good = frame.good.data() + std::size_t(y + reach) * width + reach;
      for (int first = 0; first < nx; first += SUMMED) {
        Reals sums[4]{}, numbers[4]{};
        const float* const ratio_rows = frame.ratios.data() + std::size_t(y) * width + first;
        const float* const good_rows = frame.good.data() + std::size_t(y) * width + first;
        for (int i = 0; i < n_offsets; ++i)
          for (int k = 0; k < 4; ++k) {
            sums[k] += load<Reals>(ratio_rows + offsets[i] + k * COLUMNS);
            numbers[k] += load<Reals>(good_rows + offsets[i] + k * COLUMNS);
          }
        for (int k = 0; k < 4 && first + k * COLUMNS < nx; ++k) {
          const int x = first + k * COLUMNS, n = std::min(COLUMNS, nx - x);
          const Reals excess = sums[k] - float(threshold) * numbers[k];
          const Reals margin = load<Reals>(frame.around.data() + x) * float(rounding);
          const Orders may = (load<Reals>(good + x, n) > 0.0f) & (numbers[k] > 0.0f);
          const Orders is_found = may & (excess > margin);
          const Orders is_doubtful = may & ~((excess > margin) | (excess < -margin));
          Orders decided = (is_found & int(FOUND)) | (is_doubtful & int(DOUBTFUL));
          if (is_any(decided))
            for (int j = 0; j < n; ++j) {
              if (decided[j] == DOUBTFUL)
                decided[j] = decide(ratio_rows + k * COLUMNS + j, good_rows + k * COLUMNS + j, offsets, n_offsets,
                                    threshold, transform * frame.around[x + j]);
              n_found += decided[j] == FOUND;
              n_doubtful += decided[j] == DOUBTFUL;
            }
          store(convert<Flags>(decided), found + after + int64(y) * nx + x, n);
        }
      }
    }
    counts[2 * group] = n_found;
    counts[2 * group + 1] = n_doubtful;
  }
}

}  // namespace gpucoron
