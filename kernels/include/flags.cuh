// Group flags, read as words of four samples where frames start on whole words.
#pragma once

#include "types.cuh"

namespace gpucoron {

constexpr int N_BITS = 8;

// Read words of a frame, `step` apart, with `missing` for samples after its end. All loads are on their way before the
// first is used. Frames start on whole words if `in_words`; otherwise words are put together from bytes.
template <int N>
__device__ inline void read_words(const uint8* frame, int64 first, int64 step, int64 n_pixels, bool in_words,
                                  uint32 missing, uint32 (&words)[N]) {
  const int64 n_words = (n_pixels + 3) / 4;
  if (in_words) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int64 word = first + i * step;
      words[i] = word < n_words ? reinterpret_cast<const uint32*>(frame)[word] : missing * 0x01010101u;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const int64 pixel = 4 * (first + i * step);
    words[i] = 0;
#pragma unroll
    for (int byte = 0; byte < 4; ++byte)
      words[i] |= (pixel + byte < n_pixels ? uint32(frame[pixel + byte]) : missing) << (8 * byte);
  }
}

// Count the samples of N words with each flag. Words are added bit by bit, as binary numbers whose digits are the words
// of `digits`: two logical instructions add two words, and only the digits are counted.
template <int N>
__device__ inline void count_bits(uint32 (&words)[N], int (&counts)[N_BITS]) {
#pragma unroll
  for (int bit = 0; bit < N_BITS; ++bit) counts[bit] = 0;
#pragma unroll
  for (int n = N, weight = 1; n > 0; n /= 2, weight *= 2) {
    uint32 digit = 0;
    // the words of the next digit are the carries of pairs; the last digit is the last carry
#pragma unroll
    for (int i = 0; i + 1 < n; i += 2) {
      const uint32 either = words[i] ^ words[i + 1];
      const uint32 carry = (words[i] & words[i + 1]) | (digit & either);
      digit ^= either;
      words[i / 2] = carry;
    }
    if (n == 1) digit = words[0];
#pragma unroll
    for (int bit = 0; bit < N_BITS; ++bit) counts[bit] += weight * __popc(digit & (0x01010101u << bit));
  }
}

// Whether a byte of a word is zero.
__device__ inline bool has_zero_byte(uint32 word) { return ((word - 0x01010101u) & ~word & 0x80808080u) != 0; }

// Whether all pixels of a frame have a bit of `mask`, found by the threads of a block, which stop at the first words
// without. All threads must call it together, with the same shared `n_missing`.
__device__ inline bool is_full(const uint8* frame, int64 n_pixels, bool in_words, uint32 mask, int& n_missing) {
  constexpr int WORDS = 4;
  if (threadIdx.x == 0) n_missing = 0;
  __syncthreads();
  const int64 n_words = (n_pixels + 3) / 4;
  bool is_missing = false;
  for (int64 first = threadIdx.x; first < n_words && !is_missing; first += int64(WORDS) * blockDim.x) {
    uint32 words[WORDS];
    read_words(frame, first, blockDim.x, n_pixels, in_words, mask, words);
#pragma unroll
    for (int i = 0; i < WORDS; ++i) is_missing = is_missing || has_zero_byte(words[i] & (mask * 0x01010101u));
  }
  if (is_missing) atomicOr(&n_missing, 1);
  __syncthreads();
  const bool all = n_missing == 0;
  __syncthreads();
  return all;
}

}  // namespace gpucoron
