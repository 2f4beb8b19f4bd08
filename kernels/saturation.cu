// Flags of saturation and their growth. Launches: mark_saturation, grow_flags (SATURATED); with a read pattern mark_dilution,
// grow_flags (DO_NOT_USE); growth without corners is last.
#include "saturation.cuh"

namespace gpucoron {

// grid: pixels x integrations.
__global__ void mark_saturation(const float* data, uint8* groupdq, const float* threshold, uint32* words, int n_ints,
                                int n_groups, int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = int64(integration) * n_groups * n_pixels + pixel;
    mark_saturated_groups(data + start, groupdq + start, threshold[pixel],
                          words + int64(integration) * words_of(n_groups) * n_pixels + pixel, n_groups, n_pixels);
  }
}

// grid: pixels x integrations. DILUTED is pass 2 (only for averaged reads), SECOND pass 3 (needs three groups).
template <bool DILUTED, bool SECOND>
__global__ void mark_dilution(const float* data, uint8* groupdq, const float* threshold, const uint8* checked,
                              const float* bias, uint32* words, int n_ints, int n_groups, int64 n_pixels, int n_frames) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = int64(integration) * n_groups * n_pixels + pixel;
    if (DILUTED)
      mark_diluted_groups(data + start, groupdq + start, threshold[pixel], checked[pixel],
                          words + int64(integration) * words_of(n_groups) * n_pixels + pixel, n_groups, n_pixels, n_frames);
    if (SECOND && second_group_is_spoiled(data + start, groupdq + start, threshold[pixel], bias ? bias[pixel] : 0.0f,
                                          n_pixels, n_frames))
      groupdq[start + n_pixels] |= uint8(DO_NOT_USE);
  }
}

// Set `flag` in groups that are marked in a pixel within `radius`: in a square or, without CORNERS, in that many steps up,
// down, left or right. grid: pixels x words of all integrations.
template <bool CORNERS>
__global__ void grow_flags(uint8* groupdq, const uint32* words, int flag, int radius, int n_ints, int n_groups, int ny,
                           int nx) {
  const int64 n_pixels = int64(ny) * nx;
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const int y = int(pixel / nx);
  const int x = int(pixel % nx);
  const int n_words = words_of(n_groups);
  for (int64 plane = blockIdx.y; plane < int64(n_ints) * n_words; plane += gridDim.y) {
    uint32 bits = 0;
    for (int row = larger(y - radius, 0); row <= smaller(y + radius, ny - 1); ++row) {
      const int reach = CORNERS ? radius : radius - (row < y ? y - row : row - y);
      for (int column = larger(x - reach, 0); column <= smaller(x + reach, nx - 1); ++column)
        bits |= words[plane * n_pixels + int64(row) * nx + column];
    }
    const int64 first = plane / n_words * n_groups + plane % n_words * WORD_GROUPS;
    for (int64 frame = first; bits; bits >>= 1, ++frame)
      if (bits & 1u) groupdq[frame * n_pixels + pixel] |= uint8(flag);
  }
}

}  // namespace gpucoron
