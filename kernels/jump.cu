// Jump detection. Launches: find_full_frames (flags.cu); (clip_jumps, clear_lone_jumps); search_jumps; flag_neighbors;
// flag_after_jumps. With too few groups, as in stcal: only drop_redundant_jumps.
#include "flags.cuh"
#include "jump.cuh"

namespace gpucoron {

// Drop jump flags of unusable groups.
__device__ inline uint32 without_redundant_jump(uint32 dq) { return (dq & UNUSABLE) ? dq & ~JUMP_DET : dq; }

// Find one pixel's jumps, count its jump flags, and mark those with neighbours to flag.
//
// reaching : (nints, nwords, ny, nx), zero on entry, or null; medians : (ny, nx), or null; n_flagged : (ny, nx).
// grid: pixels x lanes.
template <int MODE, int LANES>
__global__ void search_jumps(const float* data, uint8* groupdq, const float* gain, const float* readnoise, uint32* reaching,
                             double* medians, int* n_flagged, int n_ints, int n_groups, int64 n_pixels, int n_frames,
                             double threshold, double three_groups, double four_groups, double smallest, double largest) {
  using Group = Lanes<LANES>;
  const int64 pixel = Group::pixel();
  if (pixel >= n_pixels) return;
  const PixelRamps ramps{data + pixel, groupdq + pixel, gain[pixel], n_ints, n_groups, n_pixels};
  const float noise = readnoise[pixel] * gain[pixel];
  const double read_variance = double(noise * noise) / n_frames;

  auto streamed = [&](auto visit) {
    ramps.template each_difference<Group>([&](int, int, int64, float difference) { visit(difference); });
  };
  const auto& differences = keep<float>(streamed, n_ints * (n_groups - 1));
  double median = 0.0;
  double sigma = 0.0;
  auto measure = [&]() {
    median = median_of<float, Group>(differences);
    sigma = difference_noise(median, read_variance);
  };
  QuietRange quiet{0u, ~0u};
  if (MODE == ONE_PASS) measure();
  if (MODE == ITERATIVE) {
    auto magnitudes = [&](auto visit) {
      differences([&](float difference) { visit(__uint_as_float(__float_as_uint(difference) & 0x7fffffffu)); });
    };
    quiet = find_quiet_range<Group>(magnitudes, read_variance, threshold, three_groups, four_groups);
  }
  // Smaller values need no division.
  const double surely_quiet = threshold * sigma * (1.0 - 1e-9);

  int count = 0;
  auto note = [&](int64 frame, uint32 before, uint32 after) {
    count += (after & JUMP_DET) != 0;
    after = without_redundant_jump(after);
    if (after != before) ramps.groupdq[frame * n_pixels] = uint8(after);
  };
  auto reaches = [&](float difference) {
    const double ratio = magnitude(double(difference) - median) / sigma;
    return ratio < largest && ratio > smallest;
  };
  auto mark_reaching = [&](int unit, int group) {
    reaching[int64(unit) * n_pixels + pixel] |= 1u << (group % WORD_GROUPS);
  };

  for (int integration = Group::index(); integration < n_ints; integration += LANES) {
    const int64 frame = int64(integration) * n_groups;
    const uint32 before = ramps.groupdq[frame * n_pixels];
    note(frame, before, before);
  }
  ramps.template each_difference<Group>([&](int unit, int group, int64 frame, float difference) {
    const uint32 before = ramps.groupdq[frame * n_pixels];
    uint32 after = before;
    if (MODE == ONE_PASS) {
      const double excess = magnitude(double(difference) - median);
      if (!(excess < surely_quiet) && excess / sigma > threshold && is_finite(difference)) after |= JUMP_DET;
      if (reaching && (after & JUMP_DET) && reaches(difference)) mark_reaching(unit, group);
    }
    if (MODE == ITERATIVE && !is_nan(difference)) {
      const uint32 key = key_of(__uint_as_float(__float_as_uint(difference) & 0x7fffffffu));
      if (key < quiet.low || key > quiet.high) after |= JUMP_DET;
    }
    note(frame, before, after);
  });
  count = Group::sum(count);

  if (MODE != ONE_PASS && (medians || (reaching && count > 0))) {
    // The size of the jump for neighbours is relative to the signed median in all modes.
    measure();
    if (reaching && count > 0)
      ramps.template each_difference<Group>([&](int unit, int group, int64 frame, float difference) {
        if ((ramps.groupdq[frame * n_pixels] & JUMP_DET) && reaches(difference)) mark_reaching(unit, group);
      });
  }
  if (Group::index() == 0) {
    n_flagged[pixel] = count;
    if (medians) medians[pixel] = median;
  }
}

// Clip outliers over the integrations (separately for each group), or over all differences of a pixel with EXPOSURE.
// grid: pixels x differences of an integration (one block along y if EXPOSURE).
template <bool EXPOSURE>
__global__ void clip_jumps(const float* data, uint8* groupdq, const float* gain, int n_ints, int n_groups, int64 n_pixels,
                           double threshold) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const PixelRamps ramps{data + pixel, groupdq + pixel, gain[pixel], n_ints, n_groups, n_pixels};
  auto flag = [&](int64 frame, float difference, const Bounds& bounds) {
    if (is_finite(difference) && (difference < bounds.low || difference > bounds.high))
      ramps.groupdq[frame * n_pixels] |= uint8(JUMP_DET);
  };
  if constexpr (EXPOSURE) {
    auto finite = [&](auto visit) {
      ramps.template each_difference<Lanes<1>>([&](int, int, int64, float difference) {
        if (is_finite(difference)) visit(difference);
      });
    };
    const Bounds bounds = clip_about_median(finite, threshold);
    ramps.template each_difference<Lanes<1>>(
        [&](int, int, int64 frame, float difference) { flag(frame, difference, bounds); });
  } else {
    for (int group = blockIdx.y + 1; group < n_groups; group += gridDim.y) {
      auto of_group = [&](auto visit) {
        for (int integration = 0; integration < n_ints; ++integration) {
          const int64 frame = int64(integration) * n_groups + group;
          visit(frame, ramps.sample(frame) - ramps.sample(frame - 1));
        }
      };
      auto finite = [&](auto visit) {
        of_group([&](int64, float difference) {
          if (is_finite(difference)) visit(difference);
        });
      };
      const Bounds bounds = clip_about_median(finite, threshold);
      of_group([&](int64 frame, float difference) { flag(frame, difference, bounds); });
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
