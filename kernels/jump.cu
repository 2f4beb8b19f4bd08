// Jump detection. Launches: find_full_frames (flags.cu); (clip_jumps, clear_lone_jumps); search_jumps; flag_neighbors;
// flag_after_jumps. With too few groups, as in stcal: only drop_redundant_jumps.
#include "flags.cuh"
#include "jump.cuh"

namespace gpucoron {

// Drop jump flags of unusable groups.
__device__ inline uint32 without_redundant_jump(uint32 dq) { return (dq & UNUSABLE) ? dq & ~JUMP_DET : dq; }

// Find one pixel's jumps, count its jump flags, and mark those with neighbours to flag.
//
// reaching : (nints, nwords, ny, nx); medians : (ny, nx), or null; n_flagged : (ny, nx).
// grid: pixels x lanes.
template <int MODE, int LANES>
__global__ void search_jumps(const float* data, uint8* groupdq, const float* gain, const float* readnoise, uint32* reaching,
                             double* medians, int* n_flagged, int n_ints, int n_groups, int64 n_pixels, int n_frames,
                             double threshold, double three_groups, double four_groups, double smallest, double largest) {
  using Group = Lanes<LANES>;
  GPUCORON_SLICES uint32 pool[GPUCORON_SLICE_WORDS];
  const Slice slice = Slice::of_thread(pool, GPUCORON_SLICE_WORDS);
  const int64 pixel = Group::pixel();
  if (pixel >= n_pixels) return;
  const PixelRamps ramps{data + pixel, groupdq + pixel, gain[pixel], n_ints, n_groups, n_pixels};
  const float noise = readnoise[pixel] * gain[pixel];
  const double read_variance = double(noise * noise) / n_frames;
  const int n_units = ramps.n_units();
  auto word_of = [&](int unit) -> uint32& { return reaching[int64(unit) * n_pixels + pixel]; };

  // First mark in `reaching` the groups that are or may be jumps; only these are examined below.
  QuietValues quiet = all_quiet();
  uint32 word = 0;
  uint32 any = 0;
  auto is_loud = [&](float difference) { return quiet.exclude(MODE == ITERATIVE ? magnitude(difference) : difference); };
  auto mark = [&](int bit, bool is_marked) { word |= uint32(is_marked) << bit; };
  auto finish = [&](int unit) {
    any |= word;
    word_of(unit) = word;
    word = 0;
  };
  auto mark_all = [&]() {
    ramps.template scan<Group>(
        [&](int64, int bit, uint32 dq, float difference, bool) { mark(bit, (dq & JUMP_DET) || is_loud(difference)); },
        finish);
  };

  SliceSeries kept{slice, 0};
  auto streamed = [&](auto visit) { ramps.template each_difference<Group>(visit); };
  auto in_turn = [&](auto visit) { ramps.template each_difference_in_turn<Group>(visit); };
  const bool is_kept = (n_units + LANES - 1) / LANES * smaller(n_groups, WORD_GROUPS) <= slice.length;
  if (is_kept) {
    ramps.template scan<Group>(
        [&](int64, int bit, uint32 dq, float difference, bool exists) {
          if (exists) slice.store(kept.count++, difference);
          mark(bit, dq & JUMP_DET);
        },
        finish);
  }
  auto mark_kept = [&]() {
    int at = 0;
    for (int unit = Group::index(); unit < n_units; unit += LANES) {
      word = word_of(unit);
      const int n_here = smaller(WORD_GROUPS, n_groups - unit % words_of(n_groups) * WORD_GROUPS);
      for (int bit = 0; bit < n_here; ++bit) mark(bit, is_loud(slice.value(at++)));
      finish(unit);
    }
  };

  double median = 0.0;
  auto set_quiet = [&](double low, double high) {
    if (MODE == ONE_PASS) quiet = quiet_about(low, high, read_variance, threshold);
  };
  // Find the median and mark groups, in the same scans where possible.
  auto measure = [&]() {
    if (is_kept) {
      median = median_of<float, Group>(kept);
      set_quiet(median, median);
      if (MODE == ONE_PASS) mark_kept();
      return;
    }
    if constexpr (MODE != ITERATIVE) {
      MiddleBins middle;
      float low, high;
      if (ramps.template find_quartiles<Group>(slice, low, high) &&
          find_middle_bins<Group>(streamed, slice, low, high, middle)) {
        set_quiet(middle.low(), middle.high());
        MiddleValues values{{slice, 0}};
        ramps.template scan<Group>(
            [&](int64, int bit, uint32 dq, float difference, bool) {
              values.take(middle, difference);
              mark(bit, (dq & JUMP_DET) || is_loud(difference));
            },
            finish);
        if (values.template find_median<Group>(middle, median)) return;
      }
    }
    median = median_of<float, Group>(in_turn);
    set_quiet(median, median);
    if (MODE != ITERATIVE) mark_all();
  };

  if (MODE == ITERATIVE) {
    auto find_range = [&](const auto& differences) {
      auto magnitudes = [&](auto visit) { differences([&](float difference) { visit(magnitude(difference)); }); };
      quiet = values_of(find_quiet_range<Group>(magnitudes, read_variance, threshold, three_groups, four_groups));
    };
    if (is_kept) {
      find_range(kept);
      mark_kept();
    } else {
      find_range(in_turn);
      mark_all();
    }
    // The size of the jump for neighbours is relative to the signed median in all modes.
    if (medians || Group::maximum(any)) measure();
  } else {
    measure();
  }
  const double sigma = difference_noise(median, read_variance);

  int count = 0;
  uint32 reach = 0;
  uint32 marked = 0;
  uint32 rest = 0;
  // In each round, a thread examines one group or goes on to its next unit.
  for (int unit = Group::index(); unit < n_units;) {
    if (!rest) rest = marked = word_of(unit);
    if (rest) {
      const int bit = __ffs(int(rest)) - 1;
      const int group = unit % words_of(n_groups) * WORD_GROUPS + bit;
      const int64 frame = int64(unit / words_of(n_groups)) * n_groups + group;
      const float difference = group > 0 ? ramps.sample(frame) - ramps.sample(frame - 1) : float_nan();
      const double excess = magnitude(double(difference) - median) / sigma;
      const uint32 before = ramps.groupdq[frame * n_pixels];
      uint32 after = before;
      if (MODE == ONE_PASS && excess > threshold && is_finite(difference)) after |= JUMP_DET;
      if (MODE == ITERATIVE && is_loud(difference)) after |= JUMP_DET;
      if ((after & JUMP_DET) && excess < largest && excess > smallest) reach |= 1u << bit;
      count += (after & JUMP_DET) != 0;
      after = without_redundant_jump(after);
      if (after != before) ramps.groupdq[frame * n_pixels] = uint8(after);
      rest &= rest - 1;
    }
    if (!rest) {
      if (reach != marked) word_of(unit) = reach;
      reach = 0;
      unit += LANES;
    }
  }
  count = Group::sum(count);
  if (Group::index() == 0) {
    n_flagged[pixel] = count;
    if (medians) medians[pixel] = median;
  }
}

// Clip outliers over the integrations (separately for each group), or over all differences of a pixel with EXPOSURE.
// WORDS: of shared memory, which hold the differences if they fit.
// grid: blocks of pixels x differences of an integration (only blocks of pixels if EXPOSURE). Neighbouring blocks have
// neighbouring groups, which share a frame in the cache.
template <bool EXPOSURE, int WORDS>
__global__ void clip_jumps(const float* data, uint8* groupdq, const float* gain, int n_ints, int n_groups, int64 n_pixels,
                           double threshold) {
  GPUCORON_SLICES uint32 pool[WORDS];
  const Slice slice = Slice::of_thread(pool, WORDS);
  const int n_series = EXPOSURE ? 1 : n_groups - 1;
  const int64 n_blocks = (n_pixels + blockDim.x - 1) / blockDim.x * n_series;
  for (int64 block = blockIdx.x; block < n_blocks; block += gridDim.x) {
    const int64 pixel = block / n_series * blockDim.x + threadIdx.x;
    if (pixel >= n_pixels) continue;
    const PixelRamps ramps{data + pixel, groupdq + pixel, gain[pixel], n_ints, n_groups, n_pixels};
    auto clip = [&](auto each) {
      SliceSeries kept{slice, 0};
      Bounds bounds;
      const bool is_kept = n_ints * (EXPOSURE ? n_groups : 1) <= slice.length;
      if (is_kept) {
        each([&](int64, float difference) { slice.store(kept.count++, difference); });
        bounds = clip_about_median(kept, threshold);
      } else {
        bounds = clip_about_median(
            [&](auto visit) { each([&](int64, float difference) { visit(difference); }); }, threshold);
      }
      auto flag = [&](int64 frame, float difference) {
        if (is_finite(difference) && (difference < bounds.low || difference > bounds.high))
          ramps.groupdq[frame * n_pixels] |= uint8(JUMP_DET);
      };
      if (is_kept && !EXPOSURE) {
        for (int i = 0; i < n_ints; ++i) flag(int64(i) * n_groups + block % n_series + 1, slice.value(i));
      } else {
        each(flag);
      }
    };
    if constexpr (EXPOSURE) {
      clip([&](auto visit) {
        ramps.template scan<Lanes<1>>(
            [&](int64 frame, int, uint32, float difference, bool exists) {
              if (exists) visit(frame, difference);
            },
            [](int) {});
      });
    } else {
      const int group = int(block % n_series) + 1;
      clip([&](auto visit) { ramps.each_difference_of_group(group, visit); });
    }
  }
}

// Clear the flags of pixels with only JUMP_DET, in frames in which all pixels have a bit of `mask`.
// grid: a block for each frame.
__global__ void clear_lone_jumps(uint8* groupdq, int mask, int64 n_frames, int64 n_pixels, int in_words) {
  __shared__ int n_missing;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    uint8* flags = groupdq + frame * n_pixels;
    if (!is_full(flags, n_pixels, in_words, uint32(mask), n_missing)) continue;
    for (int64 pixel = threadIdx.x; pixel < n_pixels; pixel += blockDim.x)
      if (flags[pixel] == JUMP_DET) flags[pixel] = 0;
  }
}

// Flag the usable groups of the four neighbours of marked jumps. grid: pixels x words of all integrations.
__global__ void flag_neighbors(uint8* groupdq, const uint32* reaching, int n_ints, int n_groups, int ny, int nx) {
  const int64 n_pixels = int64(ny) * nx;
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const int y = int(pixel / nx);
  const int x = int(pixel % nx);
  const int n_words = words_of(n_groups);
  for (int64 plane = blockIdx.y; plane < int64(n_ints) * n_words; plane += gridDim.y) {
    const uint32* word = reaching + plane * n_pixels + pixel;
    uint32 bits = 0;
    if (y > 0) bits |= word[-int64(nx)];
    if (y < ny - 1) bits |= word[nx];
    if (x > 0) bits |= word[-1];
    if (x < nx - 1) bits |= word[1];
    for (int64 frame = plane / n_words * n_groups + plane % n_words * WORD_GROUPS; bits; bits >>= 1, ++frame) {
      const uint32 dq = groupdq[frame * n_pixels + pixel];
      if ((bits & 1u) && !(dq & UNUSABLE)) groupdq[frame * n_pixels + pixel] = uint8(dq | JUMP_DET);
    }
  }
}

// Flag usable groups after large jumps: `n1` groups after a jump of `e1` electrons, `n2` groups after one of `e2`.
// grid: pixels x integrations.
__global__ void flag_after_jumps(const float* data, uint8* groupdq, const float* gain, const double* medians, int n_ints,
                                 int n_groups, int64 n_pixels, double e1, int n1, double e2, int n2) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const PixelRamps ramps{data + pixel, groupdq + pixel, gain[pixel], n_ints, n_groups, n_pixels};
  const double median = medians[pixel];
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = int64(integration) * n_groups;
    float previous = ramps.sample(start);
    int last_flagged = 0;  // the last group to flag because of the jumps so far
    for (int group = 1; group < n_groups; ++group) {
      const float current = ramps.sample(start + group);
      const double rise = double(current - previous) - median;
      previous = current;
      uint8& dq = ramps.groupdq[(start + group) * n_pixels];
      const bool is_jump = dq & JUMP_DET;  // before this kernel's flags, which do not count as jumps
      if (group <= last_flagged && !(dq & UNUSABLE)) dq |= uint8(JUMP_DET);
      if (is_jump && rise >= e1) last_flagged = larger(last_flagged, group + n1);
      if (is_jump && rise >= e2) last_flagged = larger(last_flagged, group + n2);
    }
  }
}

// grid: samples.
__global__ void drop_redundant_jumps(uint8* groupdq, int64 n_samples) {
  const int64 stride = int64(gridDim.x) * blockDim.x;
  for (int64 at = thread_pixel(); at < n_samples; at += stride) {
    const uint32 dq = groupdq[at];
    const uint32 cleaned = without_redundant_jump(dq);
    if (cleaned != dq) groupdq[at] = uint8(cleaned);
  }
}

}  // namespace gpucoron
