// Levels of reference pixels. Launches: clip_levels, subtract_levels.
#include "clipped_mean.cuh"

namespace gpucoron {

// Compute the clipped means of the reference pixels of each frame: the first `n_first` of them, and the others if any.
//
// pixels : (n_reference) indices within a frame; samples : (n_reference, n_frames), for their values; means : (n_frames,
// kinds). grid: frames x kinds, along y.
__global__ void clip_levels(const float* frames, const int* pixels, float* samples, float* means, int n_first,
                            int n_reference, int n_frames, int64 n_pixels, float siglimit) {
  const int64 frame = thread_pixel();
  if (frame >= n_frames) return;
  const int n_kinds = n_first < n_reference ? 2 : 1;
  for (int kind = blockIdx.y; kind < n_kinds; kind += gridDim.y) {
    const int first = kind ? n_first : 0, n = kind ? n_reference - n_first : n_first;
    float* const own = samples + int64(first) * n_frames + frame;
    for_batches(
        n, [&](int i) { return frames[frame * n_pixels + pixels[first + i]]; },
        [&](int i, float value) { own[int64(i) * n_frames] = value; });
    means[frame * n_kinds + kind] = clipped_mean(own, n, n_frames, siglimit);
  }
}

// Subtract the levels of columns, then those of rows, which are the same for the columns of an output; in the detector's
// directions, so that its rows are along y, or along x with ALONG_Y.
//
// levels : (n_frames, columns), sides : (n_frames, rows, n_outputs) or null, rounded : (n_frames) whether to round to
// float32 between the two. KEEPS_ZEROS leaves zeros. grid: rows of all frames, along y.
template <bool ALONG_Y, bool KEEPS_ZEROS>
__global__ void subtract_levels(float* __restrict__ frames, const double* __restrict__ levels,
                                const double* __restrict__ sides, const uint8* __restrict__ rounded, int n_frames, int ny,
                                int nx, int n_outputs) {
  const int n_columns = ALONG_Y ? ny : nx, n_rows = ALONG_Y ? nx : ny;
  const int width = n_columns / n_outputs;
  for (int64 line = blockIdx.y; line < int64(n_frames) * ny; line += gridDim.y) {
    const int64 frame = line / ny;
    const int y = int(line % ny);
    float* const values = frames + line * nx;
    const double* const of_columns = levels + frame * n_columns;
    const double* const of_rows = sides ? sides + frame * n_rows * n_outputs : nullptr;
    const bool is_rounded = rounded[frame];
    const auto subtract = [&](int x, double level, double side) {
      const float value = values[x];
      double difference = double(value) - level;
      if (is_rounded) difference = double(float(difference));
      const float corrected = float(difference - side);
      values[x] = KEEPS_ZEROS && value == 0.0f ? 0.0f : corrected;
    };
    if (ALONG_Y) {
      const int output = smaller(y / width, n_outputs - 1);
      for (int x = threadIdx.x; x < nx; x += blockDim.x)
        subtract(x, of_columns[y], of_rows ? of_rows[int64(x) * n_outputs + output] : 0.0);
    } else {
      for (int output = 0; output < n_outputs; ++output) {
        const double side = of_rows ? of_rows[int64(y) * n_outputs + output] : 0.0;
        const int stop = (output + 1) * width;
        GPUCORON_VECTORS
        for (int x = output * width + threadIdx.x; x < stop; x += blockDim.x) subtract(x, of_columns[x], side);
      }
    }
  }
}

}  // namespace gpucoron
