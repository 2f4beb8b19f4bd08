// Flags of whole ramps and of whole groups, before ramps are fitted. Launches: suppress_single_groups, find_usable_groups.
#include "types.cuh"

namespace gpucoron {

// Set DO_NOT_USE in all groups of a ramp with a single good one. grid: pixels x integrations.
__global__ void suppress_single_groups(uint8* groupdq, int n_ints, int n_groups, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    uint8* const ramp = groupdq + int64(integration) * n_groups * n_pixels + pixel;
    int n_good = 0;
    // Most ramps have two good groups among their first ones, and the others need not be read.
    for (int group = 0; group < n_groups && n_good < 2; ++group) n_good += !(ramp[group * n_pixels] & ~PERSISTENCE);
    if (n_good == 1)
      for (int group = 0; group < n_groups; ++group) ramp[group * n_pixels] |= uint8(DO_NOT_USE);
  }
}

// Set in missing[group] those of DO_NOT_USE and SATURATED that one of its samples lacks; 0 on entry.
//
// frames_apart : frames from one integration to the next. grid: any number of threads x groups.
__global__ void find_usable_groups(const uint8* groupdq, int* missing, int n_ints, int n_groups, int64 frames_apart,
                                   int64 n_pixels) {
  constexpr int AT_ONCE = 8;
  for (int group = blockIdx.y; group < n_groups; group += gridDim.y) {
    // In most groups one of the first samples lacks both, and all threads may stop.
    const volatile int* const of_all = missing + group;
    int known = *of_all;
    for (int64 pixel = thread_pixel(); pixel < n_pixels; pixel += int64(gridDim.x) * blockDim.x)
      for (int first = 0; first < n_ints && known != int(UNUSABLE); first += AT_ONCE) {
        uint32 common = UNUSABLE;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
          const int64 frame = smaller(first + i, n_ints - 1) * frames_apart + group;
          common &= groupdq[frame * n_pixels + pixel];
        }
        const int lacks = int(UNUSABLE & ~common);
        if (lacks & ~known) atomicOr(&missing[group], lacks);
        known |= lacks | *of_all;
      }
  }
}

}  // namespace gpucoron
