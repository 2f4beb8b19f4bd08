// Flags of a ramp. Counted in one pass: count_flags, and once more for the flags of pixels that it collects;
// find_full_frames, which stops early; join_group_flags; join_integration_flags. Set: add_flags; suppress_single_groups;
// find_early_saturation, then flag_first_groups.
#include "flags.cuh"
#include "lanes.cuh"

namespace gpucoron {

// Count the samples of each frame with each flag: (n_frames, 8), zero on entry, or null. Collect those of the flags
// `wanted` that each pixel has in any frame: (n_pixels / 4, rounded up), zero on entry, or null.
//
// grid: pieces of a frame x lanes, frames. The lanes share a piece; a sum of two counts has 16 bits for each.
template <int LANES>
__global__ void count_flags(const uint8* groupdq, int* counts, uint32* collected, int wanted, int64 n_frames,
                            int64 n_pixels, int in_words) {
  constexpr int WORDS = 16;
  using Group = Lanes<LANES>;
  const int64 n_words = (n_pixels + 3) / 4;
  const int64 piece = Group::pixel() * (LANES * WORDS);
  if (piece >= n_words) return;
  const int64 first = piece + Group::index();
  uint32 any[WORDS] = {};
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    uint32 words[WORDS];
    read_words(groupdq + frame * n_pixels, first, LANES, n_pixels, in_words, 0u, words);
    if (collected)
#pragma unroll
      for (int i = 0; i < WORDS; ++i) any[i] |= words[i];
    if (!counts) continue;
    int own[N_BITS];
    count_bits(words, own);
    int mine = 0;
#pragma unroll
    for (int bit = 0; bit < N_BITS / 2; ++bit) {
      const int both = Group::sum(own[bit] + (own[bit + N_BITS / 2] << 16));
      own[bit] = both & 0xffff;
      own[bit + N_BITS / 2] = both >> 16;
    }
#pragma unroll
    for (int bit = 0; bit < N_BITS; ++bit) {
      if (LANES == 1 && own[bit] > 0) atomicAdd(&counts[frame * N_BITS + bit], own[bit]);
      if (LANES > 1 && Group::index() == bit) mine = own[bit];
    }
    // neighbouring lanes add to neighbouring counts
    if (mine > 0) atomicAdd(&counts[frame * N_BITS + Group::index()], mine);
  }
  if (!collected) return;
#pragma unroll
  for (int i = 0; i < WORDS; ++i) {
    const uint32 found = any[i] & (0x01010101u * uint32(wanted));  // zero in most words, and after the end of the frame
    if (found) atomicOr(&collected[first + i * LANES], found);
  }
}

// Find the frames in which all pixels have a bit of `mask`: 1 or 0. grid: a block for each frame.
__global__ void find_full_frames(const uint8* groupdq, int mask, uint8* full, int64 n_frames, int64 n_pixels,
                                 int in_words) {
  __shared__ int n_missing;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const bool all = is_full(groupdq + frame * n_pixels, n_pixels, in_words, uint32(mask), n_missing);
    if (threadIdx.x == 0) full[frame] = all;
  }
}

// The flags of each integration, `joined` (nints, ny, nx): those of the pixel, SATURATED and JUMP_DET if any group has
// them, DO_NOT_USE if no group is usable. grid: words of four pixels x integrations.
__global__ void join_group_flags(const uint8* groupdq, const uint32* pixeldq, uint32* joined, int n_ints, int n_groups,
                                 int64 n_pixels, int in_words) {
  const int64 word = thread_pixel();
  if (4 * word >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const uint8* ramps = groupdq + int64(integration) * n_groups * n_pixels;
    uint32 any = 0;
    uint32 unusable = 0x01010101u * DO_NOT_USE;
#pragma unroll 8
    for (int group = 0; group < n_groups; ++group) {
      uint32 flags[1];
      read_words(ramps + group * n_pixels, word, 1, n_pixels, in_words, 0u, flags);
      any |= flags[0];
      unusable &= flags[0] | flags[0] >> 1;  // SATURATED counts as DO_NOT_USE
    }
    const uint32 bits = (any & 0x01010101u * (SATURATED | JUMP_DET)) | unusable;
    for (int byte = 0; byte < 4; ++byte) {
      const int64 pixel = 4 * word + byte;
      if (pixel < n_pixels) joined[integration * n_pixels + pixel] = pixeldq[pixel] | (bits >> 8 * byte & 0xffu);
    }
  }
}

// The flags of all integrations, `joined` (ny, nx), but DO_NOT_USE only if all have it. grid: pixels.
__global__ void join_integration_flags(const uint32* dq, uint32* joined, int n_ints, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  uint32 any = 0;
  uint32 all = DO_NOT_USE;
  for (int integration = 0; integration < n_ints; ++integration) {
    const uint32 flags = dq[integration * n_pixels + pixel];
    any |= flags;
    all &= flags;
  }
  joined[pixel] = (any & ~DO_NOT_USE) | all;
}

// Groups of a thread that are loaded together.
constexpr int AT_ONCE = 8;

// Set the flags of a pixel in all groups. grid: pixels x parts of the frames.
__global__ void add_flags(uint8* groupdq, const uint8* flags, int64 n_frames, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  // Most pixels have no flags, and their groups are not read.
  if (pixel >= n_pixels || !flags[pixel]) return;
  for (int64 first = int64(blockIdx.y) * AT_ONCE; first < n_frames; first += int64(gridDim.y) * AT_ONCE) {
    const int n = int(smaller(int64(AT_ONCE), n_frames - first));
    uint8* const groups = groupdq + first * n_pixels + pixel;
    uint8 dq[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) dq[i] = i < n ? groups[i * n_pixels] : uint8(0);
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i)
      if (i < n) groups[i * n_pixels] = uint8(dq[i] | flags[pixel]);
  }
}

// Set DO_NOT_USE in all groups of a ramp with a single good one. grid: pixels x integrations.
__global__ void suppress_single_groups(uint8* groupdq, int n_ints, int n_groups, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    uint8* const ramp = groupdq + int64(integration) * n_groups * n_pixels + pixel;
    int n_good = 0;
    // Most ramps have two good groups among their first ones, and the others need not be read.
    for (int first = 0; first < n_groups && n_good < 2; first += AT_ONCE) {
      uint8 dq[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) dq[i] = first + i < n_groups ? ramp[(first + i) * n_pixels] : uint8(DO_NOT_USE);
#pragma unroll
      for (int i = 0; i < AT_ONCE; ++i) n_good += !(dq[i] & ~PERSISTENCE);
    }
    if (n_good == 1)
      for (int group = 0; group < n_groups; ++group) ramp[group * n_pixels] |= uint8(DO_NOT_USE);
  }
}

// Set is_early[group], 0 on entry, if a ramp is saturated at this group of the first `skip + 2`, but not at its first one.
// grid: pixels x integrations.
__global__ void find_early_saturation(const uint8* groupdq, int* is_early, int skip, int n_ints, int n_groups,
                                      int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const uint8* const ramp = groupdq + int64(integration) * n_groups * n_pixels + pixel;
    if (ramp[0] & SATURATED) continue;
    for (int group = 1; group < skip + 2; ++group)
      if (ramp[group * n_pixels] & SATURATED && !is_early[group]) atomicOr(&is_early[group], 1);
  }
}

// Set DO_NOT_USE in the first `skip` groups, or in fewer of ramps that saturate early; see the definition.
//
// is_early : from find_early_saturation; lowered, kept_all : bits that are set in found[pixel] if a ramp of the pixel keeps
// some of the groups, or all of them. grid: pixels x integrations.
__global__ void flag_first_groups(uint8* groupdq, uint32* pixeldq, const int* is_early, int* found, int lowered,
                                  int kept_all, int flag_of_lowered, int skip, int n_ints, int n_groups, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    uint8* const ramp = groupdq + int64(integration) * n_groups * n_pixels + pixel;
    const bool is_lost = ramp[0] & SATURATED;
    int skipped = skip;
    for (int group = skip + 1; group > 0 && is_early[group]; --group)
      if (skipped > 0 && !is_lost && ramp[group * n_pixels] & SATURATED) --skipped;
    for (int group = 0; group < skipped; ++group) ramp[group * n_pixels] |= uint8(DO_NOT_USE);
    const int bits = (skipped < skip ? lowered : 0) | (skipped == 0 && is_early[skip + 1] ? kept_all : 0);
    if (bits) atomicOr(&found[pixel], bits);
    if (skipped < skip) pixeldq[pixel] |= uint32(flag_of_lowered);
  }
}

}  // namespace gpucoron
