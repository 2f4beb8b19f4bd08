// Saturation and the A/D floor, as in stcal's flag_saturated_pixels.
//
// The flags of a ramp's groups are bits of words, so that 32 groups grow at once and no thread reads data that another one
// is changing. Words are (nints, nwords, ny, nx) uint32.
#pragma once

#include "types.cuh"

namespace gpucoron {

// Pass 1 on one ramp: flag the A/D floor; mark the groups that are saturated, or were flagged before.
__device__ inline void mark_saturated_groups(const float* data, uint8* groupdq, float threshold, uint32* words, int n_groups,
                                             int64 n_pixels) {
  bool reached = false;
  for (int word = 0; word < words_of(n_groups); ++word) {
    uint32 bits = 0;
    const int first = word * WORD_GROUPS;
    const int stop = smaller(first + WORD_GROUPS, n_groups);
    for (int group = first; group < stop; ++group) {
      const float value = data[group * n_pixels];
      const uint32 dq = groupdq[group * n_pixels];
      reached = reached || value >= threshold;
      // Existing flags grow too, but do not continue in later groups.
      bits |= uint32(reached || (dq & SATURATED)) << (group - first);
      if (value <= 0.0f) groupdq[group * n_pixels] = uint8(dq | AD_FLOOR | DO_NOT_USE);
    }
    words[word * n_pixels] = bits;
  }
}

// Pass 2 on one ramp: mark groups before a saturated one that reach the threshold for a mean whose last read saturated.
__device__ inline void mark_diluted_groups(const float* data, const uint8* groupdq, float threshold, bool checked,
                                           uint32* words, int n_groups, int64 n_pixels, int n_frames) {
  uint32 dq = groupdq[0];
  for (int word = 0; word < words_of(n_groups); ++word) {
    uint32 bits = 0;
    const int first = word * WORD_GROUPS;
    const int stop = smaller(first + WORD_GROUPS, n_groups - 1);
    for (int group = first; group < stop; ++group) {
      const uint32 next = groupdq[(group + 1) * n_pixels];
      if (!(dq & UNUSABLE) && (next & SATURATED)) {
        const double mean_read = group * double(n_frames) + (n_frames + 1) / 2.0;
        const double dilution = checked ? mean_read / (double(group + 1) * n_frames) : 1.0;
        // float64: the product must not be rounded.
        bits |= uint32(double(data[group * n_pixels]) >= double(threshold) * dilution) << (group - first);
      }
      dq = next;
    }
    words[word * n_pixels] = bits;
  }
}

// Pass 3 on one ramp: whether the second group jumps towards a saturated third one that the first did not predict.
__device__ inline bool second_group_is_spoiled(const float* data, const uint8* groupdq, float threshold, float bias,
                                               int64 n_pixels, int n_frames) {
  if (!(groupdq[2 * n_pixels] & SATURATED) || (groupdq[n_pixels] & SATURATED)) return false;
  const float first = data[0];
  const double mean_read = (n_frames + 1) / 2.0;
  const double foretold = double(first - bias) / mean_read * (3.0 * n_frames) + double(bias);
  const float rise = data[n_pixels] - first;
  return foretold < double(threshold) && rise > (threshold - first) / float(n_frames);
}

}  // namespace gpucoron
