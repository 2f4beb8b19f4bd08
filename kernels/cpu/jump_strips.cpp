// Jump detection on a CPU: the decisions of jump.cu for neighbouring pixels at the same time. Launches: search_strips;
// flag_listed_neighbors; flag_groups_after_jumps.
//
// The differences of a strip of pixels are stored in the cache, in columns of `COLUMNS` pixels. Loops over all differences
// use vector instructions; code for single pixels follows only where there may be a jump.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "jump.cuh"
#include "wide_ranks.hpp"

namespace gpucoron {

// Pixels of a strip, so that flags fill a line of the cache; fewer if the differences would need too much of it.
constexpr int MOST_IN_STRIP = 64;
constexpr std::size_t STRIP_BYTES = 1 << 19;
// Lines of the cache are requested this many frames in advance.
constexpr int FRAMES_AHEAD = 8;
// Jumps of the list that a thread processes at a time.
constexpr int64 JUMPS_AT_ONCE = 4096;

// The later group of difference number `row` is flagged.
struct Jump {
  int row;
  int column;
};

struct Strip {
  const float* data;  // these two at the first pixel of the strip
  uint8* groupdq;
  int n_ints, n_groups;
  int64 n_pixels;  // of the image
  int n;           // of the strip

  int n_differences() const { return n_ints * (n_groups - 1); }
  int64 frame_of(int row) const { return int64(row / (n_groups - 1)) * n_groups + row % (n_groups - 1) + 1; }

  // Request a frame; a strip may begin and end inside a line of the cache. (GCC drops calls of functions that have no other
  // effect, unless they are inlined early.)
  __attribute__((always_inline)) void fetch(int64 frame) const {
    for (int at = 0; at < n; at += COLUMNS) __builtin_prefetch(data + frame * n_pixels + at);
    __builtin_prefetch(data + frame * n_pixels + n - 1);
    for (int at = 0; at < n; at += 4 * COLUMNS) __builtin_prefetch(groupdq + frame * n_pixels + at);
    __builtin_prefetch(groupdq + frame * n_pixels + n - 1);
  }
};

// Store the differences of a strip, which consists of whole rows or not, and return whether a group is JUMP_DET.
template <bool IS_WHOLE>
inline bool store_differences(const Strip& strip, const float* gain, int* differences) {
  using Flags = Wide<uint8, COLUMNS>;
  const std::size_t apart = std::size_t(strip.n_differences()) * COLUMNS;
  const int64 n_frames = int64(strip.n_ints) * strip.n_groups;
  const auto width = [&](int at) { return IS_WHOLE ? COLUMNS : std::min(COLUMNS, strip.n - at); };
  Reals gains[MOST_IN_STRIP / COLUMNS], previous[MOST_IN_STRIP / COLUMNS];
  for (int at = 0; at < strip.n; at += COLUMNS) gains[at / COLUMNS] = load<Reals>(gain + at, width(at));
  Flags all_flags{};
  int64 frame = 0;
  for (int integration = 0; integration < strip.n_ints; ++integration)
    for (int group = 0; group < strip.n_groups; ++group, ++frame) {
      if (frame + FRAMES_AHEAD < n_frames) strip.fetch(frame + FRAMES_AHEAD);
      const float* const data = strip.data + frame * strip.n_pixels;
      const uint8* const groupdq = strip.groupdq + frame * strip.n_pixels;
      int* const row = differences + (frame - integration - 1) * COLUMNS;
      for (int at = 0; at < strip.n; at += COLUMNS) {
        const Flags flags = IS_WHOLE ? load_row<Flags>(groupdq + at) : load<Flags>(groupdq + at, width(at));
        all_flags |= flags;
        const auto is_usable = (convert<Orders>(flags) & int(UNUSABLE)) == 0;
        const Reals electrons = load<Reals>(data + at, width(at)) * gains[at / COLUMNS];
        const Reals usable = is_usable ? electrons : all_of<Reals>(float_nan());
        if (group > 0) store(orders_of(usable - previous[at / COLUMNS]), row + at / COLUMNS * apart);
        previous[at / COLUMNS] = usable;
      }
    }
  const auto halves = same_bits<Wide<long long, COLUMNS / 8>>(all_flags & uint8(JUMP_DET));
  return (halves[0] | halves[1]) != 0;
}

// List the groups that are JUMP_DET already, and clear JUMP_DET where the group is unusable.
inline void list_earlier_jumps(const Strip& strip, int* n_flagged, std::vector<Jump>& jumps) {
  int row = -1;
  for (int64 frame = 0; frame < int64(strip.n_ints) * strip.n_groups; ++frame) {
    const bool is_first = frame % strip.n_groups == 0;
    row += !is_first;
    uint8* const flags = strip.groupdq + frame * strip.n_pixels;
    for (int at = 0; at < strip.n; ++at) {
      if (!(flags[at] & JUMP_DET)) continue;
      ++n_flagged[at];
      if (flags[at] & UNUSABLE)
        flags[at] = uint8(flags[at] & ~JUMP_DET);
      else if (!is_first)
        jumps.push_back({row, at});
    }
  }
}

// Find one pixel's jumps, count its jump flags, and list those with neighbours to flag.
struct Search {
  double threshold, three_groups, four_groups;

  // Flag a jump, unless it is flagged.
  static void flag(const Strip& strip, int row, int at, std::vector<Jump>& jumps) {
    uint8& flags = strip.groupdq[strip.frame_of(row) * strip.n_pixels + at];
    if (flags & JUMP_DET) return;
    flags |= uint8(JUMP_DET);
    jumps.push_back({row, at});
  }

  void in_one_pass(const Strip& strip, const Rows& rows, int first, const double* medians, const double* sigmas,
                   std::vector<Jump>& jumps) const {
    // Differences between these bounds are no jumps, whatever the rounding.
    Orders low, high;
    for (int column = 0; column < COLUMNS; ++column) {
      const double reach = threshold * sigmas[column];
      const double margin = 1e-5 * (magnitude(medians[column]) + reach) + 1.2e-38;
      const float below = float(medians[column] - (reach - margin)), above = float(medians[column] + (reach - margin));
      low[column] = is_nan(below) ? INT_MIN : order_of(below);
      high[column] = is_nan(above) ? NOTHING : order_of(above);
    }
    constexpr int AT_ONCE = 8;
    for (int start = 0; start < rows.number; start += AT_ONCE) {
      const int stop = std::min(start + AT_ONCE, rows.number);
      auto is_far = all_of<Orders>(0);
      for (int row = start; row < stop; ++row) is_far |= far(rows.get(row), low, high);
      if (!is_any(is_far)) continue;
      for (int row = start; row < stop; ++row) {
        is_far = far(rows.get(row), low, high);
        if (!is_any(is_far)) continue;
        const Reals differences = reals_of(rows.get(row));
        for (int column = 0; column < COLUMNS; ++column) {
          const float difference = differences[column];
          if (is_far[column] && magnitude(double(difference) - medians[column]) / sigmas[column] > threshold &&
              is_finite(difference))
            flag(strip, row, first + column, jumps);
        }
      }
    }
  }

  static Orders far(const Orders& value, const Orders& low, const Orders& high) {
    return ((value > high) & (value < INFINITE)) | (value < low);
  }

  static int order_of(float value) {
    const int bits = int(__float_as_uint(value));
    return bits < 0 ? bits ^ NOTHING : bits;
  }

  // The first round of all pixels together; those with a jump are then finished one by one.
  void by_iteration(const Strip& strip, const Rows& rows, int first, const double* read_variances,
                    std::vector<Jump>& jumps) const {
    const Magnitudes magnitudes{rows, rows.number};
    const Columns columns = survey_columns(magnitudes);
    Orders smaller_ones[1];
    count_below(magnitudes, {columns.high}, smaller_ones);
    const Orders kept = columns.count >= 4 ? smaller_ones[0] : columns.count;
    const Orders rank = columns.count == 2 ? all_of<Orders>(0) : larger_of((kept - 1) >> 1, all_of<Orders>(0));
    const RankedColumns middle = select_ranks(magnitudes, rank, columns);
    for (int column = 0; column < COLUMNS; ++column) {
      const int count = columns.count[column];
      if (count < 2) continue;
      const double limit = count >= 4 ? threshold : count == 3 ? four_groups : three_groups;
      double median = real_of(middle.at[column]);
      if (count > 2 && kept[column] % 2 == 0) median = (median + real_of(middle.next[column])) / 2.0;
      if (kept[column] == 0) median = double_nan();
      const double noise = difference_noise(median, read_variances[column]);
      const double at_high = magnitude(double(float(real_of(columns.high[column]) - median))) / noise;
      const double at_low = magnitude(double(float(real_of(columns.low[column]) - median))) / noise;
      if (at_low > limit || at_high > limit) finish(strip, rows, first, column, read_variances[column], jumps);
    }
  }

  void finish(const Strip& strip, const Rows& rows, int first, int column, double read_variance,
              std::vector<Jump>& jumps) const {
    auto streamed = [&](auto visit) {
      for (int row = 0; row < rows.number; ++row) {
        const int order = rows.first[std::size_t(row) * COLUMNS + column];
        visit(order == NOTHING ? float_nan() : real_of(order ^ (order >> 31)));
      }
    };
    const auto& magnitudes = keep<float>(streamed, rows.number);
    const QuietRange quiet =
        find_quiet_range<Lanes<1>>(magnitudes, read_variance, threshold, three_groups, four_groups);
    int row = 0;
    magnitudes([&](float value) {
      if (!is_nan(value) && (key_of(value) < quiet.low || key_of(value) > quiet.high)) flag(strip, row, first + column, jumps);
      ++row;
    });
  }
};

// Signed medians of a column's differences, and their noise.
inline void measure(const Rows& rows, const double* read_variances, double* medians, double* sigmas) {
  const Columns columns = survey_columns(rows);
  const RankedColumns middle = select_ranks(rows, larger_of((columns.count - 1) >> 1, all_of<Orders>(0)), columns);
  for (int column = 0; column < COLUMNS; ++column) {
    const int count = columns.count[column];
    const double at = real_of(middle.at[column]), next = real_of(middle.next[column]);
    medians[column] = count == 0 ? double_nan() : count % 2 == 0 ? (at + next) / 2.0 : at;
    sigmas[column] = difference_noise(medians[column], read_variances[column]);
  }
}

// Find the jumps of all pixels as search_jumps in jump.cu, and list those with neighbours to flag.
//
// reaching : the first `n_reaching` are indices of the flat groupdq, or null; there may be more than its `capacity`, and the
// rest is not in the list; medians : (ny, nx), or null; n_flagged : (ny, nx). grid: strips, along y.
template <int MODE>
__global__ void search_strips(const float* data, uint8* groupdq, const float* gain, const float* readnoise, int64* reaching,
                              int64* n_reaching, double* medians, int* n_flagged, int64 capacity, int n_ints, int n_groups,
                              int64 n_pixels, int n_frames, double threshold, double three_groups, double four_groups,
                              double smallest, double largest) {
  static thread_local std::vector<int> storage;
  static thread_local std::vector<Jump> jumps;
  const int n_rows = n_ints * (n_groups - 1);
  int width = MOST_IN_STRIP;
  while (width > COLUMNS && std::size_t(n_rows) * width * sizeof(int) > STRIP_BYTES) width /= 2;
  const std::size_t apart = std::size_t(n_rows) * COLUMNS;
  // Rows must not cross lines of the cache.
  constexpr std::size_t LINE = 64;
  if (storage.size() < n_rows * std::size_t(width) + LINE) storage.resize(n_rows * std::size_t(width) + LINE);
  void* place = storage.data();
  std::size_t space = storage.size() * sizeof(int);
  int* const differences = static_cast<int*>(std::align(LINE, n_rows * std::size_t(width) * sizeof(int), place, space));
  const Search search{threshold, three_groups, four_groups};
  for (int64 start = blockIdx.y * int64(width); start < n_pixels; start += gridDim.y * int64(width)) {
    const int n = int(std::min(int64(width), n_pixels - start));
    const Strip strip{data + start, groupdq + start, n_ints, n_groups, n_pixels, n};
    int counts[MOST_IN_STRIP]{};
    double strip_medians[MOST_IN_STRIP], sigmas[MOST_IN_STRIP], read_variances[MOST_IN_STRIP]{};
    for (int at = 0; at < n; ++at) {
      const float noise = readnoise[start + at] * gain[start + at];
      read_variances[at] = double(noise * noise) / n_frames;
    }
    jumps.clear();
    const auto store_all = n % COLUMNS == 0 ? store_differences<true> : store_differences<false>;
    const bool is_flagged = store_all(strip, gain + start, differences);
    if (is_flagged) list_earlier_jumps(strip, counts, jumps);
    std::size_t n_earlier = jumps.size();
    for (int first = 0; first < n; first += COLUMNS) {
      const Rows rows{differences + first / COLUMNS * apart, n_rows};
      const std::size_t n_before = jumps.size();
      if (MODE == ITERATIVE) search.by_iteration(strip, rows, first, read_variances + first, jumps);
      bool needs_median = MODE == ONE_PASS || medians || (reaching && jumps.size() > n_before);
      for (std::size_t i = 0; i < n_earlier && reaching && !needs_median; ++i)
        needs_median = jumps[i].column / COLUMNS == first / COLUMNS;
      if (needs_median) measure(rows, read_variances + first, strip_medians + first, sigmas + first);
      if (MODE == ONE_PASS) search.in_one_pass(strip, rows, first, strip_medians + first, sigmas + first, jumps);
    }
    for (std::size_t i = n_earlier; i < jumps.size(); ++i) ++counts[jumps[i].column];
    for (const Jump& jump : jumps) {
      if (!reaching) break;
      const std::size_t at = jump.column / COLUMNS * apart + std::size_t(jump.row) * COLUMNS + jump.column % COLUMNS;
      if (differences[at] == NOTHING) continue;
      const double excess = magnitude(double(real_of(differences[at])) - strip_medians[jump.column]);
      const double ratio = excess / sigmas[jump.column];
      if (!(ratio > smallest && ratio < largest)) continue;
      const int64 listed = std::atomic_ref<int64>(*n_reaching).fetch_add(1, std::memory_order_relaxed);
      if (listed < capacity) reaching[listed] = strip.frame_of(jump.row) * n_pixels + start + jump.column;
    }
    for (int at = 0; at < n; ++at) n_flagged[start + at] = counts[at];
    if (medians)
      for (int at = 0; at < n; ++at) medians[start + at] = strip_medians[at];
  }
}

// Flag the usable groups of the four neighbours of listed jumps. grid: parts of the list, along y.
__global__ void flag_listed_neighbors(uint8* groupdq, const int64* reaching, int64 n_jumps, int ny, int nx) {
  for (int64 start = blockIdx.y * JUMPS_AT_ONCE; start < n_jumps; start += gridDim.y * JUMPS_AT_ONCE)
    for (int64 at = start; at < std::min(start + JUMPS_AT_ONCE, n_jumps); ++at) {
      const int64 jump = reaching[at];
      const int y = int(jump / nx % ny), x = int(jump % nx);
      // Another thread may be flagging the same group.
      const auto flag = [&](int64 neighbor) {
        const std::atomic_ref<uint8> flags(groupdq[neighbor]);
        const uint8 before = flags.load(std::memory_order_relaxed);
        if (!(before & (UNUSABLE | JUMP_DET))) flags.fetch_or(uint8(JUMP_DET), std::memory_order_relaxed);
      };
      if (y > 0) flag(jump - nx);
      if (y < ny - 1) flag(jump + nx);
      if (x > 0) flag(jump - 1);
      if (x < nx - 1) flag(jump + 1);
    }
}

// Flag usable groups after large jumps, as flag_after_jumps in jump.cu. grid: strips, along y.
__global__ void flag_groups_after_jumps(const float* data, uint8* groupdq, const float* gain, const double* medians,
                                        int n_ints, int n_groups, int64 n_pixels, double e1, int n1, double e2, int n2) {
  for (int64 start = blockIdx.y * int64(MOST_IN_STRIP); start < n_pixels; start += gridDim.y * int64(MOST_IN_STRIP)) {
    const int n = int(std::min(int64(MOST_IN_STRIP), n_pixels - start));
    for (int integration = 0; integration < n_ints; ++integration) {
      int last_flagged[MOST_IN_STRIP]{};  // the last group to flag because of the jumps so far
      int last_of_all = 0;
      for (int group = 1; group < n_groups; ++group) {
        const int64 frame = int64(integration) * n_groups + group;
        uint8* const flags = groupdq + frame * n_pixels + start;
        uint32 found = 0;
        for (int at = 0; at < n; ++at) found |= flags[at];
        if (!(found & JUMP_DET) && group > last_of_all) continue;
        for (int at = 0; at < n; ++at) {
          const bool is_jump = flags[at] & JUMP_DET;  // before this kernel's flags, which do not count as jumps
          if (group <= last_flagged[at] && !(flags[at] & UNUSABLE)) flags[at] |= uint8(JUMP_DET);
          if (!is_jump) continue;
          const int64 pixel = start + at;
          const PixelRamps ramps{data + pixel, groupdq + pixel, gain[pixel], n_ints, n_groups, n_pixels};
          const double rise = double(ramps.sample(frame) - ramps.sample(frame - 1)) - medians[pixel];
          if (rise >= e1) last_flagged[at] = larger(last_flagged[at], group + n1);
          if (rise >= e2) last_flagged[at] = larger(last_flagged[at], group + n2);
          last_of_all = larger(last_of_all, last_flagged[at]);
        }
      }
    }
  }
}

}  // namespace gpucoron
