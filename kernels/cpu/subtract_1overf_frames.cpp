// 1/f noise of frames on a CPU: a thread processes a frame. Launches: find_backgrounds; smooth_frames.
//
// Both have the bits of the NumPy definitions in operations/subtract_1overf/ (background.py, definition.py, savgol.py): medians
// do not depend on how they are found, sums of integers not on their order, and all others have the same order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "subtract_1overf.cuh"
#include "wide.hpp"

namespace gpucoron {

constexpr float NO_DEVIATION = 2.220446049250313e-16f;

// Arrays of a frame, which a thread keeps for its next frame.
struct FrameScratch {
  std::vector<float> values, model, filled, packed, turned, smooth, offset, rows;
  std::vector<int> keys, integers, stack;
  std::vector<uint8> good, outlying, turned_good, changed;
  std::vector<double> sums, squares;
  std::vector<int64> moments;
};

template <class Value>
Value* room(std::vector<Value>& storage, std::size_t n) {
  if (storage.size() < n) storage.resize(n);
  return storage.data();
}

// -- order statistics --
//
// Keys are integers in the order of the numbers. Arrays of them are padded to whole vectors with NOTHING, the key of a NaN.

using KeyVector = Wide<int, 16>;
constexpr int N_KEYS = WIDTH_OF<KeyVector>;
constexpr int NOTHING = std::numeric_limits<int>::max();
constexpr int LEAST = std::numeric_limits<int>::min();

// For one integer or a vector: the bits of a float to its key, and back.
template <class Bits>
inline Bits key_of_bits(Bits bits) {
  return bits ^ ((bits >> 31) & NOTHING);
}

inline int key_of_float(float value) { return key_of_bits(int(__float_as_uint(value))); }
inline float float_of_key(int key) { return __uint_as_float(unsigned(key_of_bits(key))); }

// Call visit(keys) with all vectors of n keys.
template <class Visit>
inline void each_vector(const int* keys, int n, const Visit& visit) {
  for (int i = 0; i < n; i += N_KEYS) visit(load<KeyVector>(keys + i));
}

template <class Join>
inline int join_elements(KeyVector vector, const Join& join) {
  int joined = vector[0];
  for (int i = 1; i < N_KEYS; ++i) joined = join(joined, vector[i]);
  return joined;
}

inline int least_of(KeyVector keys) {
  return join_elements(keys, [](int a, int b) { return std::min(a, b); });
}

inline int largest_of(KeyVector keys) {
  return join_elements(keys, [](int a, int b) { return std::max(a, b); });
}

inline int count_below(const int* keys, int n, int bound) {
  KeyVector found{};
  const KeyVector bounds = all_of<KeyVector>(bound);
  each_vector(keys, n, [&](KeyVector each) { found -= each < bounds; });
  return join_elements(found, [](int a, int b) { return a + b; });
}

inline int least_from(const int* keys, int n, int bound) {
  KeyVector found = all_of<KeyVector>(NOTHING);
  const KeyVector bounds = all_of<KeyVector>(bound);
  each_vector(keys, n, [&](KeyVector each) { found = smaller_of(found, each >= bounds ? each : all_of<KeyVector>(NOTHING)); });
  return least_of(found);
}

inline int largest_below(const int* keys, int n, int bound) {
  KeyVector found = all_of<KeyVector>(LEAST);
  const KeyVector bounds = all_of<KeyVector>(bound);
  each_vector(keys, n, [&](KeyVector each) { found = larger_of(found, each < bounds ? each : all_of<KeyVector>(LEAST)); });
  return largest_of(found);
}

// Return the key of `rank` among n > rank keys. Pivots are placed by interpolation of the counts, every third one in the
// middle, finally by bisection of the keys, which ends for any values.
inline int key_of_rank(const int* keys, int n, int rank) {
  int low = least_from(keys, n, LEAST), high = largest_below(keys, n, NOTHING);
  int below_low = 0, up_to_high = n;
  for (int pass = 0; low < high; ++pass) {
    int pivot = (low & high) + ((low ^ high) >> 1);
    const float start = float_of_key(low), span = float_of_key(high) - start;
    if (pass < 24 && is_finite(span)) {
      const float share = pass % 3 == 2 ? 0.5f : (rank - below_low + 0.5f) / (up_to_high - below_low);
      pivot = key_of_float(start + span * share);
    }
    pivot = std::min(std::max(pivot, low + 1), high);
    const int below = count_below(keys, n, pivot);
    if (below == rank) return least_from(keys, n, pivot);
    if (below == rank + 1) return largest_below(keys, n, pivot);
    if (below < rank) {
      low = pivot;
      below_low = below;
    } else {
      high = pivot - 1;
      up_to_high = below;
    }
  }
  return low;
}

struct Middle {
  float low, high;
};

// Return the values of the ranks (n - 1) / 2 and n / 2 of the n smallest of all keys; n > 0.
inline Middle middle_of(const int* keys, int n_keys, int n) {
  const int low = key_of_rank(keys, n_keys, (n - 1) / 2);
  int high = low;
  if (n % 2 == 0 && count_below(keys, n_keys, low + 1) <= n / 2) high = least_from(keys, n_keys, low + 1);
  return {float_of_key(low), float_of_key(high)};
}

// Return the median; a zero is positive. n > 0.
inline float median_of(const int* keys, int n) {
  const auto [low, high] = middle_of(keys, n, n);
  return (n % 2 ? high : (low + high) / 2.0f) + 0.0f;
}

// Whether the flags, 0 or 1, of as many neighbours as a vector has are all set.
inline bool all_set(const uint8* flags) {
  uint64 words[2];
  static_assert(sizeof(words) == N_KEYS);
  std::memcpy(words, flags, N_KEYS);
  return (words[0] & words[1]) == 0x0101010101010101ull;
}

// Store the keys of the values whose flag is 1, with padding, and return their number. keys : room for n + N_KEYS.
inline int gather_keys(const float* values, const uint8* flags, int n, int* keys) {
  int stored = 0, i = 0;
  for (; i + N_KEYS <= n; i += N_KEYS) {
    KeyVector bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    bits = key_of_bits(bits);
    if (all_set(flags + i)) {
      store(bits, keys + stored);
      stored += N_KEYS;
      continue;
    }
    int some[N_KEYS];
    store(bits, some);
    for (int j = 0; j < N_KEYS; ++j) {
      keys[stored] = some[j];
      stored += flags[i + j];
    }
  }
  for (; i < n; ++i) {
    keys[stored] = key_of_float(values[i]);
    stored += flags[i];
  }
  store(all_of<KeyVector>(NOTHING), keys + stored);
  return stored;
}

// Flag finite values, and return their number.
inline int flag_finite(const float* values, int n, uint8* flags) {
  int found = 0;
  for (int i = 0; i < n; ++i) {
    flags[i] = uint8(is_finite(values[i]));
    found += flags[i];
  }
  return found;
}

// -- background --

// Smooth an image by a Gaussian on 5 x 5 pixels, with zeros outside. weights : from the middle outwards (3). `row` has room for
// nx + 4 values.
template <class ValueOf>
void convolve(const ValueOf& value_of, int ny, int nx, const float* weights, float* row, float* smooth) {
  std::fill(row, row + nx + 4, 0.0f);
  float* const columns = row + 2;
  for (int y = 0; y < ny; ++y) {
    for (int x = 0; x < nx; ++x) columns[x] = value_of(y, x) * weights[0];
    for (int step = 1; step <= 2; ++step) {
      const bool has_above = y >= step, has_below = y + step < ny;
      const float weight = weights[step];
      if (has_above && has_below)
        for (int x = 0; x < nx; ++x) columns[x] += (value_of(y - step, x) + value_of(y + step, x)) * weight;
      else if (has_above || has_below)
        for (int x = 0; x < nx; ++x) columns[x] += value_of(has_above ? y - step : y + step, x) * weight;
    }
    float* const smoothed = smooth + int64(y) * nx;
    for (int x = 0; x < nx; ++x) {
      const float near = columns[x] * weights[0] + (columns[x - 1] + columns[x + 1]) * weights[1];
      smoothed[x] = near + (columns[x - 2] + columns[x + 2]) * weights[2];
    }
  }
}

// Leave out of `good` the areas of enough connected pixels that are marked as bright, over edges; marks are removed.
// Return whether there were any.
inline bool leave_out_areas(uint8* bright, int ny, int nx, int fewest, std::vector<int>& area, uint8* good) {
  bool found = false;
  const int n = ny * nx;
  for (int start = 0; start < n; ++start) {
    if (!bright[start]) continue;
    area.assign(1, start);
    bright[start] = 0;
    auto add = [&](int pixel) {
      if (!bright[pixel]) return;
      bright[pixel] = 0;
      area.push_back(pixel);
    };
    for (std::size_t next = 0; next < area.size(); ++next) {
      const int pixel = area[next], x = pixel % nx;
      if (x > 0) add(pixel - 1);
      if (x + 1 < nx) add(pixel + 1);
      if (pixel >= nx) add(pixel - nx);
      if (pixel + nx < n) add(pixel + nx);
    }
    if (int(area.size()) < fewest) continue;
    found = true;
    for (const int pixel : area) good[pixel] = 0;
  }
  return found;
}

// Find the background of each frame; see background.py.
//
// bad, masks : (n_frames, ny, nx), 0 or 1; bad may be null. inside : (ny, nx), the part of the Gaussian inside the array.
// gaussian : (3), its weights from the middle outwards. grid: frames, along y.
__global__ void find_backgrounds(const float* images, const uint8* bad, const float* inside, const float* gaussian, uint8* masks,
                                 int64 n_frames, int ny, int nx, float first_cut, int n_rounds, float mad_to_sigma,
                                 float source_sigma, int source_pixels) {
  static thread_local FrameScratch scratch;
  const int n = ny * nx;
  int* const keys = room(scratch.keys, n + N_KEYS);
  float* const smooth = room(scratch.smooth, n);
  float* const offset = room(scratch.offset, n);
  float* const row = room(scratch.rows, nx + 4);
  uint8* const bright = room(scratch.outlying, n);
  uint8* const next = room(scratch.good, n);
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const float* const image = images + frame * n;
    const uint8* const excluded = bad ? bad + frame * n : nullptr;
    uint8* const good = masks + frame * n;

    const int n_valid = flag_finite(image, n, good);
    if (excluded && std::memchr(excluded, 0, n))
      for (int i = 0; i < n; ++i) good[i] &= uint8(!excluded[i]);

    if (n_valid == n) {
      convolve([&](int y, int x) { return image[y * nx + x]; }, ny, nx, gaussian, row, smooth);
    } else {
      auto valid = [&](int y, int x) { return is_finite(image[y * nx + x]) ? 1.0f : 0.0f; };
      auto known = [&](int y, int x) { return is_finite(image[y * nx + x]) ? image[y * nx + x] : 0.0f; };
      convolve(valid, ny, nx, gaussian, row, offset);
      convolve(known, ny, nx, gaussian, row, smooth);
      for (int i = 0; i < n; ++i) {
        float weight = 1.0f - inside[i] + offset[i];
        if (weight < 1e-6f) weight = float_nan();
        smooth[i] /= weight;
        offset[i] /= weight;
      }
    }
    const float* const offsets = n_valid == n ? inside : offset;

    int n_good = gather_keys(image, good, n, keys);
    for (int round = 0; round < n_rounds; ++round) {
      if (round && !n_good) break;
      const float centre = n_good ? median_of(keys, n_good) : float_nan();
      const int n_below = n_good ? count_below(keys, n_good, key_of_float(centre == 0.0f ? -0.0f : centre)) : 0;
      float sigma = float_nan();
      if (n_below) {
        const auto [low, high] = middle_of(keys, n_good, n_below);
        sigma = ((centre - low) + (centre - high)) / 2.0f * mad_to_sigma;
        if (sigma < NO_DEVIATION) {
          std::nth_element(keys, keys + n_below, keys + n_good);
          std::sort(keys, keys + n_below);
          double sum = 0.0;
          for (int i = 0; i < n_below; ++i) sum += double(centre - float_of_key(keys[i]));
          sigma = float(sum / n_below) / MEAN_DEVIATION_OF_NORMAL;
        }
      }
      float reach = (round ? CUT : first_cut) * sigma;
      if (is_nan(reach)) reach = std::numeric_limits<float>::infinity();
      const float lowest = centre - reach, highest = centre + reach;
      for (int i = 0; i < n; ++i) next[i] = uint8((image[i] >= lowest) & (image[i] <= highest) & good[i]);
      int n_next = gather_keys(image, next, n, keys);
      if (n_next) {
        const float middle = median_of(keys, n_next), above = source_sigma * sigma;
        int n_bright = 0;
        for (int i = 0; i < n; ++i) {
          bright[i] = uint8((smooth[i] > middle * offsets[i] + above) & next[i]);
          n_bright += bright[i];
        }
        if (n_bright >= source_pixels && leave_out_areas(bright, ny, nx, source_pixels, scratch.stack, next))
          n_next = gather_keys(image, next, n, keys);
      }
      const bool unchanged = round > 0 && n_next == n_good;
      std::memcpy(good, next, n);
      n_good = n_next;
      if (unchanged) break;
    }
  }
}

// -- lines --

// The tables of a line: see savgol.py.
struct LineTables {
  const float* bridges;  // rows of 33 weights, for windows of 5, 7, ... 33 samples
  const double* cubics;  // (window, 4)
  int window, bits;
};

constexpr int BRIDGE_PAIRS = BRIDGE - 1;
constexpr int N_TERMS = 4;
// Outputs that are computed again together.
constexpr int STEP = 64;

// The value at good sample `index` of the cubic fit to the window around it. packed: good samples, then 2 BRIDGE zeros.
inline double level_of(const float* packed, int n_samples, int index, const float* bridges) {
  int window = smaller(BRIDGE, n_samples);
  window -= window % 2 == 0;
  if (window < LEAST_WINDOW) return packed[index];
  const int start = smaller(larger(index - window / 2, 0), n_samples - window);
  // (5 + 7 + ... + window - 2) rows are those of smaller windows
  const int n_before = (window / 2) * (window / 2) - 4;
  const float* const weights = bridges + int64(n_before + index - start) * BRIDGE;
  const float* const samples = packed + start;
  float pairs[BRIDGE_PAIRS / 2];
  for (int i = 0; i < BRIDGE_PAIRS / 2; ++i)
    pairs[i] = samples[i] * weights[i] + samples[i + BRIDGE_PAIRS / 2] * weights[i + BRIDGE_PAIRS / 2];
  for (int i = 0; i < 8; ++i) pairs[i] += pairs[i + 8];
  for (int i = 0; i < 4; ++i) pairs[i] += pairs[i + 4];
  pairs[0] += pairs[2];
  pairs[1] += pairs[3];
  return (pairs[0] + pairs[1]) + samples[BRIDGE - 1] * weights[BRIDGE - 1];
}

// Eight flags as bits.
inline unsigned bits_of(const uint8* flags) {
  uint64 bytes;
  std::memcpy(&bytes, flags, 8);
  return unsigned(bytes * 0x0102040810204080ull >> 56);
}

// The largest size of values that are used.
template <class Used>
float largest_size(const float* values, int n, const Used& used) {
  // positive numbers have the order of their bits
  int largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, int(__float_as_uint(values[i])) & (used(i) ? NOTHING : 0));
  return float_of_key(largest);
}

// The unit in which samples of up to a size are integers.
inline double unit_of(float largest, int bits) {
  int exponent;
  std::frexp(double(largest), &exponent);
  return std::ldexp(1.0, exponent - bits);
}

// A line with bridged holes, smoothed by cubic fits; samples may be left out later.
class SmoothLine {
 public:
  SmoothLine(const float* samples, uint8* good, int length, const LineTables& tables, FrameScratch& scratch, float* model)
      : samples(samples), good(good), model(model), length(length), half(tables.window / 2), tables(tables) {
    filled = room(scratch.filled, length);
    packed = room(scratch.packed, length + 2 * BRIDGE);
    integers = room(scratch.integers, length);
    n_steps = (length - 2 * half + STEP - 1) / STEP;
    changed = room(scratch.changed, n_steps);
    unit = unit_of(largest_size(samples, length, [&](int i) { return good[i]; }), tables.bits);
    std::memcpy(filled, samples, length * sizeof(float));
    const double scale = 1 / unit;
    for (int i = 0; i < length; ++i) integers[i] = int(std::rint((good[i] ? double(samples[i]) : 0.0) * scale));
    is_new = true;
    update(nullptr, 0);
    is_new = false;
  }

  // Bridge the holes and smooth the line again, after samples were left out, given in ascending order.
  void update(const int* left_out, int n_left_out) {
    std::fill(changed, changed + n_steps, uint8(is_new));
    bridge(left_out, n_left_out);
    smooth();
  }

 private:
  struct Run {
    int first, last, before;
    bool is_new;
  };

  void bridge(const int* left_out, int n_left_out) {
    static thread_local std::vector<Run> runs;
    runs.clear();
    int n_good = 0, next_left_out = 0;
    auto add = [&](int start, int stop, bool is_good) {
      if (is_good) {
        std::memcpy(packed + n_good, samples + start, (stop - start) * sizeof(float));
        n_good += stop - start;
        return;
      }
      const int earlier = next_left_out;
      while (next_left_out < n_left_out && left_out[next_left_out] < stop) ++next_left_out;
      runs.push_back({start, stop - 1, n_good, is_new || next_left_out > earlier});
    };
    int start = 0;
    bool is_good = good[0];
    for (int at = 0; at < length; at += 8) {
      unsigned bits = 0;
      const int n = smaller(8, length - at);
      if (n == 8)
        bits = bits_of(good + at);
      else
        for (int i = 0; i < n; ++i) bits |= unsigned(good[at + i]) << i;
      // flags that differ from the one before
      unsigned edges = (bits ^ (bits << 1 | unsigned(is_good))) & ((1u << n) - 1);
      for (; edges; edges &= edges - 1) {
        const int edge = at + __builtin_ctz(edges);
        add(start, edge, is_good);
        start = edge;
        is_good = !is_good;
      }
    }
    add(start, length, is_good);
    std::fill(packed + n_good, packed + n_good + 2 * BRIDGE, 0.0f);

    // Levels change only near new holes, in good samples; near the ends, windows reach further.
    const int near = 2 * BRIDGE;
    const int n_runs = int(runs.size());
    int next_new = 0, last_new = -1;
    for (int number = 0; number < n_runs; ++number) {
      const Run& run = runs[number];
      if (run.is_new) last_new = number;
      while (next_new < n_runs && (next_new < number || !runs[next_new].is_new)) ++next_new;
      const bool follows = last_new >= 0 && run.before - runs[last_new].before <= near;
      const bool precedes = next_new < n_runs && runs[next_new].before - run.before <= near;
      if (follows || precedes || n_good <= near) fill(run, n_good);
    }
  }

  void fill(const Run& run, int n_good) {
    double low = 0.0, slope = 0.0;
    int left = 0;
    if (n_good) {
      const bool has_left = run.before > 0, has_right = run.before < n_good;
      low = level_of(packed, n_good, has_left ? run.before - 1 : 0, tables.bridges);
      const double high = level_of(packed, n_good, has_right ? run.before : n_good - 1, tables.bridges);
      left = has_left ? run.first - 1 : run.last + 1;
      const int right = has_right ? run.last + 1 : run.first - 1;
      slope = (high - low) / larger(right - left, 1);
    }
    const double scale = 1 / unit;
    for (int at = run.first; at <= run.last; ++at) {
      const float value = float(low + slope * double(at - left));
      if (!is_new && value == filled[at]) continue;
      filled[at] = value;
      integers[at] = int(std::rint(double(value) * scale));
      const int last = smaller(at / STEP, n_steps - 1);
      for (int step = larger(at - 2 * half, 0) / STEP; step <= last; ++step) changed[step] = 1;
    }
  }

  // Compute the outputs of the changed steps, from sums of x, k x and k^2 x at distances k, which slide along the line.
  void smooth() {
    const int64 m = half, n_outputs = length - 2 * half;
    const int64 centre = 3 * m * m + 3 * m - 1;
    const double factor = 3.0 / double((2 * m - 1) * (2 * m + 1) * (2 * m + 3)) * unit;
    for (int step = 0; step < n_steps; ++step) {
      if (!changed[step]) continue;
      int64 output = int64(step) * STEP;
      while (step + 1 < n_steps && changed[step + 1]) ++step;
      const int64 stop = smaller(int64(step + 1) * STEP, n_outputs);
      const int* const window = integers + half;
      int64 sum = 0, first = 0, second = 0;
      for (int64 k = -m; k <= m; ++k) {
        const int64 sample = window[output + k];
        sum += sample;
        first += k * sample;
        second += k * k * sample;
      }
      for (;;) {
        model[half + output] = float(double(centre * sum - 5 * second) * factor);
        if (++output == stop) break;
        const int64 old = window[output - 1 - m], added = window[output + m];
        sum -= old;
        first += m * old;
        second += sum - 2 * first - m * m * old;
        first += m * added - sum;
        second += m * m * added;
        sum += added;
      }
    }
    smooth_end(0, 0, 0);
    smooth_end(length - tables.window, half + 1, length - half);
  }

  // Compute half a window of outputs at an end from the cubic fit to its window: from row `row` of the cubics on.
  void smooth_end(int start, int row, int output) {
    double amplitudes[N_TERMS] = {};
    for (int i = 0; i < tables.window; ++i)
      for (int term = 0; term < N_TERMS; ++term)
        amplitudes[term] += double(filled[start + i]) * tables.cubics[i * N_TERMS + term];
    for (int i = 0; i < half; ++i) {
      const double* const terms = tables.cubics + (row + i) * N_TERMS;
      double value = 0.0;
      for (int term = 0; term < N_TERMS; ++term) value += terms[term] * amplitudes[term];
      model[output + i] = float(value);
    }
  }

  const float* samples;
  const uint8* good;
  float* model;
  int length, half, n_steps;
  LineTables tables;
  float* filled;
  float* packed;
  int* integers;
  uint8* changed;
  double unit;
  bool is_new;
};

// Subtract the median of the good pixels from a frame; good pixels are those of the mask, but outliers and their four
// neighbours. values, good : (ny, nx), filled.
inline void centre_frame(const float* image, const uint8* mask, int ny, int nx, float mad_to_sigma, FrameScratch& scratch,
                         float* values, uint8* good) {
  const int n = ny * nx;
  int* const keys = room(scratch.keys, n + N_KEYS);
  uint8* const outlying = room(scratch.outlying, n);
  uint8* const finite = good;
  float* const deviations = values;
  const int n_finite = flag_finite(image, n, finite);
  float median = 0.0f, reach = -1.0f;
  if (n_finite) {
    gather_keys(image, finite, n, keys);
    median = median_of(keys, n_finite);
    for (int i = 0; i < n; ++i) deviations[i] = absolute(image[i] - median);
    gather_keys(deviations, finite, n, keys);
    float spread = median_of(keys, n_finite) * mad_to_sigma;
    if (spread < NO_DEVIATION) {
      double sum = 0.0;
      for (int i = 0; i < n; ++i)
        if (finite[i]) sum += double(deviations[i]);
      spread = float(sum / n_finite) / MEAN_DEVIATION_OF_NORMAL;
    }
    reach = CUT * spread;
  }
  for (int i = 0; i < n; ++i) outlying[i] = uint8(!(absolute(image[i] - median) <= reach));
  for (int y = 0; y < ny; ++y) {
    const uint8* const row = outlying + int64(y) * nx;
    const uint8* const above = y > 0 ? row - nx : row;
    const uint8* const below = y + 1 < ny ? row + nx : row;
    for (int x = 0; x < nx; ++x) {
      const uint8 beside = uint8((x > 0 ? row[x - 1] : 0) | (x + 1 < nx ? row[x + 1] : 0));
      good[int64(y) * nx + x] = uint8(mask[int64(y) * nx + x] & !(row[x] | above[x] | below[x] | beside));
    }
  }
  const int n_good = gather_keys(image, good, n, keys);
  // without good pixels, nothing is subtracted
  const float middle = n_good ? median_of(keys, n_good) : 0.0f;
  for (int i = 0; i < n; ++i) values[i] = n_good ? image[i] - middle : image[i];
}

// Smooth a frame as one line; leave out samples where the model is far from the median of the row, and repeat.
inline void smooth_rows(const float* values, uint8* good, int ny, int nx, const LineTables& tables, int n_rounds,
                        FrameScratch& scratch, float* model) {
  const int n = ny * nx;
  int* const keys = room(scratch.keys, n + N_KEYS);
  double* const sums = room(scratch.sums, nx);
  double* const squares = room(scratch.squares, nx);
  float* const medians = room(scratch.rows, ny + nx + 4);
  std::vector<int>& strays = scratch.stack;
  auto take_median = [&](int y) {
    const int n_used = gather_keys(values + int64(y) * nx, good + int64(y) * nx, nx, keys);
    medians[y] = n_used ? median_of(keys, n_used) : 0.0f;
  };
  for (int y = 0; y < ny; ++y) take_median(y);
  SmoothLine line(values, good, n, tables, scratch, model);
  for (int round = 0; round < n_rounds; ++round) {
    int n_good = 0;
    std::fill(sums, sums + nx, 0.0);
    std::fill(squares, squares + nx, 0.0);
    for (int y = 0; y < ny; ++y) {
      const float* const row = model + int64(y) * nx;
      const uint8* const used = good + int64(y) * nx;
      const float median = medians[y];
      GPUCORON_VECTORS
      for (int x = 0; x < nx; ++x) {
        const double deviation = used[x] ? row[x] - median : 0.0f;
        sums[x] += deviation;
        squares[x] += deviation * deviation;
        n_good += used[x];
      }
    }
    double sum = 0.0, square = 0.0;
    for (int x = 0; x < nx; ++x) {
      sum += sums[x];
      square += squares[x];
    }
    const double scatter = larger(square - sum * sum / larger(n_good, 1), 0.0);
    const float reach = float(double(CUT) * sqrt(scatter / larger(n_good - 1, 1)));
    strays.clear();
    for (int y = 0; y < ny; ++y) {
      const float* const row = model + int64(y) * nx;
      uint8* const used = good + int64(y) * nx;
      const float median = medians[y];
      int found = 0;
      for (int x = 0; x < nx; ++x) found += (absolute(row[x] - median) > reach) & used[x];
      if (!found) continue;
      for (int x = 0; x < nx; ++x) {
        if (!(absolute(row[x] - median) > reach) || !used[x]) continue;
        used[x] = 0;
        strays.push_back(y * nx + x);
      }
      take_median(y);
    }
    if (strays.empty()) return;
    line.update(strays.data(), int(strays.size()));
  }
}

template <class Value>
void transpose(const Value* from, int ny, int nx, Value* to) {
  constexpr int SIDE = 16;
  for (int y = 0; y < ny; y += SIDE)
    for (int x = 0; x < nx; x += SIDE)
      for (int column = x; column < smaller(x + SIDE, nx); ++column)
        for (int row = y; row < smaller(y + SIDE, ny); ++row) to[int64(column) * ny + row] = from[int64(row) * nx + column];
}

// Subtract from an image its columns smoothed by cubics.
inline void flatten(float* image, int ny, int nx, const LineTables& tables, FrameScratch& scratch) {
  const int64 n = int64(ny) * nx, m = tables.window / 2;
  const double unit = unit_of(largest_size(image, int(n), [](int) { return true; }), tables.bits);
  const double scale = 1 / unit, factor = 3.0 / double((2 * m - 1) * (2 * m + 1) * (2 * m + 3)) * unit;
  int* const integers = room(scratch.integers, n);
  for (int64 i = 0; i < n; ++i) integers[i] = int(std::rint(double(image[i]) * scale));

  // both ends, before the image changes
  double* const amplitudes = room(scratch.sums, 2 * N_TERMS * nx);
  std::fill(amplitudes, amplitudes + 2 * N_TERMS * nx, 0.0);
  const int64 last_window = ny - tables.window;
  for (int end = 0; end < 2; ++end)
    for (int y = 0; y < tables.window; ++y) {
      const float* const row = image + (end * last_window + y) * nx;
      for (int term = 0; term < N_TERMS; ++term) {
        double* const sums = amplitudes + (end * N_TERMS + term) * nx;
        const double weight = tables.cubics[y * N_TERMS + term];
        for (int x = 0; x < nx; ++x) sums[x] += double(row[x]) * weight;
      }
    }
  for (int end = 0; end < 2; ++end)
    for (int64 i = 0; i < m; ++i) {
      float* const row = image + (end ? ny - m + i : i) * nx;
      const double* const terms = tables.cubics + (end ? m + 1 + i : i) * N_TERMS;
      const double* const sums = amplitudes + end * N_TERMS * nx;
      for (int x = 0; x < nx; ++x) {
        double value = 0.0;
        for (int term = 0; term < N_TERMS; ++term) value += terms[term] * sums[term * nx + x];
        row[x] -= float(value);
      }
    }

  // sums of x, k x and k^2 x at distances k, which slide along the columns, as in SmoothLine
  int64* const sum = room(scratch.moments, 3 * nx);
  int64 *const first = sum + nx, *const second = first + nx;
  std::fill(sum, sum + 3 * nx, int64(0));
  for (int64 k = -m; k <= m; ++k) {
    const int* const row = integers + (m + k) * nx;
    for (int x = 0; x < nx; ++x) {
      const int64 sample = row[x];
      sum[x] += sample;
      first[x] += k * sample;
      second[x] += k * k * sample;
    }
  }
  const int64 centre = 3 * m * m + 3 * m - 1;
  for (int64 y = m;; ++y) {
    float* const row = image + y * nx;
    for (int x = 0; x < nx; ++x) row[x] -= float(double(centre * sum[x] - 5 * second[x]) * factor);
    if (y + 1 == ny - m) break;
    const int* const leaving = integers + (y - m) * nx;
    const int* const coming = integers + (y + 1 + m) * nx;
    for (int x = 0; x < nx; ++x) {
      const int64 old = leaving[x], added = coming[x];
      const int64 kept = sum[x] - old, shifted = first[x] + m * old;
      second[x] += kept - 2 * shifted - m * m * old + m * m * added;
      first[x] = shifted + m * added - kept;
      sum[x] = kept + added;
    }
  }
}

// Fit the noise of each frame along rows, flattened along columns, and of the residual along columns, the last two if their
// window is not 0; see definition.py.
//
// images, models : (n_frames, ny, nx); masks : of that shape, 0 or 1. bridges, cubics : see LineTables. grid: frames, along y.
__global__ void smooth_frames(const float* images, const uint8* masks, const float* bridges, const double* cubics,
                              const double* cubics_of_columns, const double* cubics_of_flattening, float* models,
                              int64 n_frames, int ny, int nx, int window, int bits, int window_of_columns,
                              int bits_of_columns, int window_of_flattening, int bits_of_flattening, int n_rounds,
                              float mad_to_sigma) {
  static thread_local FrameScratch scratch;
  const int64 n = int64(ny) * nx;
  float* const values = room(scratch.values, n);
  uint8* const good = room(scratch.good, n);
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    float* const model = models + frame * n;
    centre_frame(images + frame * n, masks + frame * n, ny, nx, mad_to_sigma, scratch, values, good);
    smooth_rows(values, good, ny, nx, {bridges, cubics, window, bits}, n_rounds, scratch, model);
    if (window_of_flattening > 0)
      flatten(model, ny, nx, {nullptr, cubics_of_flattening, window_of_flattening, bits_of_flattening}, scratch);
    if (window_of_columns == 0) continue;
    float* const turned = room(scratch.turned, n);
    uint8* const turned_good = room(scratch.turned_good, n);
    float* const turned_model = room(scratch.model, n);
    for (int64 i = 0; i < n; ++i) values[i] -= model[i];
    transpose(values, ny, nx, turned);
    transpose(good, ny, nx, turned_good);
    const LineTables tables{bridges, cubics_of_columns, window_of_columns, bits_of_columns};
    smooth_rows(turned, turned_good, nx, ny, tables, n_rounds, scratch, turned_model);
    transpose(turned_model, nx, ny, values);
    for (int64 i = 0; i < n; ++i) model[i] += values[i];
  }
}

}  // namespace gpucoron
