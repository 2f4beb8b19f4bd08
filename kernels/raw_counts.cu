// Convert counts as FITS stores them, big-endian 16-bit words, to float32.
#include "types.cuh"

namespace gpucoron {

// OFFSET: signed words with BZERO = 32768, as FITS stores unsigned numbers. grid: words.
template <bool OFFSET>
__global__ void convert_counts(const uint16* raw, float* counts, int64 n_words) {
  const int64 stride = int64(gridDim.x) * blockDim.x;
  for (int64 at = thread_pixel(); at < n_words; at += stride) {
    const uint32 word = raw[at];
    const uint32 swapped = ((word >> 8) | (word << 8)) & 0xffffu;
    counts[at] = float(OFFSET ? swapped ^ 0x8000u : swapped);
  }
}

}  // namespace gpucoron
