// The frames of a reference in the read pattern of an exposure, as in stcal's dark_sub.
#pragma once

#include "types.cuh"

namespace gpucoron {

// The type of a sum of frames: double if a reference is too short, as in stcal.
template <bool BEYOND>
struct Sum {
  using Real = float;
};

template <>
struct Sum<true> {
  using Real = double;
};

// One pixel of a reference. Frames beyond its last one are on a line: `mean + (index - center) * slope`, or through its
// last two frames where `mean` is null; there are none without BEYOND. NaN counts as zero.
template <bool BEYOND>
struct ReferencePixel {
  using Real = typename Sum<BEYOND>::Real;

  const float* frames;
  const double* mean;
  const double* slope;
  const double* center;
  int n_frames;
  int64 n_pixels;

  __device__ Real frame(int index) const {
    const int last = n_frames - 1;
    Real value;
    if (!BEYOND || index <= last) {
      value = Real(frames[index * n_pixels]);
    } else if (mean) {
      value = Real(*mean + (index - *center) * *slope);
    } else {
      const float rate = frames[last * n_pixels] - frames[(last - 1) * n_pixels];
      value = Real((index - last) * double(rate) + double(frames[last * n_pixels]));
    }
    return is_nan(value) ? Real(0) : value;
  }

  // The mean of `n_averaged` frames.
  __device__ Real mean_of(int first, int n_averaged) const {
    Real total = frame(first);
    for (int index = first + 1; index < first + n_averaged; ++index) total += frame(index);
    return n_averaged > 1 ? total / Real(n_averaged) : total;
  }
};

}  // namespace gpucoron
