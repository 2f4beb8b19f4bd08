// Flags of saturation on a CPU. Launches: mark_saturation_strips, grow_saturation.
#include <algorithm>
#include <cstring>
#include <vector>

#include "types.cuh"

namespace gpucoron {

// Neighbouring pixels for which one byte tells whether any is saturated; such parts of a strip. Long strips are read faster.
constexpr int PART_PIXELS = 512;
constexpr int PARTS_OF_STRIP = 16;

__device__ inline int64 parts_of(int64 n_pixels) { return (n_pixels + PART_PIXELS - 1) / PART_PIXELS; }

// Flag all groups from the first saturated one on, and the A/D floor. A thread processes a strip of pixels frame by frame.
// found : (nints, ngroups, n_parts), whether a pixel is saturated. grid: strips of all integrations, along y.
__global__ void mark_saturation_strips(const float* __restrict__ data, uint8* __restrict__ groupdq,
                                       const float* __restrict__ threshold, uint8* __restrict__ found, int n_ints,
                                       int n_groups, int64 n_pixels) {
  alignas(64) uint8 reached[PARTS_OF_STRIP][PART_PIXELS];
  const int64 n_parts = parts_of(n_pixels), n_strips = (n_parts + PARTS_OF_STRIP - 1) / PARTS_OF_STRIP;
  for (int64 number = blockIdx.y; number < n_strips * n_ints; number += gridDim.y) {
    const int64 start = number % n_strips * PARTS_OF_STRIP, stop = smaller(start + PARTS_OF_STRIP, n_parts);
    std::memset(reached, 0, sizeof(reached));
    for (int64 frame = number / n_strips * n_groups; frame < (number / n_strips + 1) * n_groups; ++frame)
      for (int64 part = start; part < stop; ++part) {
        const int64 first = part * PART_PIXELS;
        const int n = int(smaller(int64(PART_PIXELS), n_pixels - first));
        const float* const values = data + frame * n_pixels + first;
        const float* const limits = threshold + first;
        uint8* const flags = groupdq + frame * n_pixels + first;
        uint8* const since = reached[part - start];
        uint8 any = 0;
        GPUCORON_VECTORS
        for (int at = threadIdx.x; at < n; at += blockDim.x) {
          since[at] |= values[at] >= limits[at] ? uint8(SATURATED) : uint8(0);
          flags[at] |= since[at] | (values[at] <= 0.0f ? uint8(AD_FLOOR | DO_NOT_USE) : uint8(0));
          any |= flags[at];
        }
        found[frame * n_parts + part] = any & SATURATED;
      }
  }
}

// Grow a mask by one pixel, with or without corners. Both masks have a border of zeros; only rows near marked ones are changed.
template <bool CORNERS>
inline void grow_once(const uint8* mask, const uint8* near, int ny, int nx, uint8* column, uint8* grown) {
  const int64 width = nx + 2;
  for (int y = 1; y <= ny; ++y) {
    if (!near[y]) continue;
    const uint8* const row = mask + y * width;
    for (int x = 0; x < width; ++x) column[x] = row[x - width] | row[x] | row[x + width];
    const uint8* const beside = CORNERS ? column : row;
    uint8* const to = grown + y * width;
    for (int x = 1; x <= nx; ++x) to[x] = column[x] | beside[x - 1] | beside[x + 1];
  }
}

// Grow SATURATED within each group by `radius` pixels: in a square or, without CORNERS, in that many steps up, down, left or
// right. found : as from mark_saturation_strips. grid: frames, along y.
template <bool CORNERS>
__global__ void grow_saturation(uint8* __restrict__ groupdq, const uint8* __restrict__ found, int radius, int n_ints,
                                int n_groups, int ny, int nx) {
  static thread_local std::vector<uint8> mask, grown, near, nearer, column;
  const int64 width = nx + 2, n_pixels = int64(ny) * nx, n_parts = parts_of(n_pixels);
  for (int64 frame = blockIdx.y; frame < int64(n_ints) * n_groups; frame += gridDim.y) {
    uint8* const flags = groupdq + frame * n_pixels;
    near.assign(ny + 2, 0);
    for (int64 part = 0; part < n_parts; ++part)
      if (found[frame * n_parts + part])
        for (int64 y = part * PART_PIXELS / nx; y < ny && y * nx < (part + 1) * PART_PIXELS; ++y) near[y + 1] = 1;
    if (std::find(near.begin(), near.end(), 1) == near.end()) continue;
    column.resize(width);
    mask.assign((ny + 2) * width, 0);
    const auto over_rows = [&](auto act) {
      for (int y = 0; y < ny; ++y)
        if (near[y + 1]) act(flags + int64(y) * nx, mask.data() + (y + 1) * width + 1);
    };
    over_rows([&](const uint8* dq, uint8* row) {
      for (int x = 0; x < nx; ++x) row[x] = dq[x] & SATURATED;
    });
    for (int step = 0; step < radius; ++step) {
      nearer = near;
      for (int y = 1; y <= ny; ++y) near[y] |= nearer[y - 1] | nearer[y + 1];
      grown.assign(mask.size(), 0);
      grow_once<CORNERS>(mask.data(), near.data(), ny, nx, column.data(), grown.data());
      mask.swap(grown);
    }
    over_rows([&](uint8* dq, const uint8* row) {
      for (int x = 0; x < nx; ++x) dq[x] |= row[x];
    });
  }
}

}  // namespace gpucoron
