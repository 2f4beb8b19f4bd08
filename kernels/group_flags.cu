// Flags of groups that follow from a pixel, or from other groups of its ramp.
#include "types.cuh"

namespace gpucoron {

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
