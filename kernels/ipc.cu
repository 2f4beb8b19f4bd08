// Capacitive coupling between pixels: a deconvolution of each frame. One launch: deconvolve_coupling.
#include "types.cuh"

namespace gpucoron {

// As the launcher has it: rows of more pixels are not taken.
constexpr int MOST_COLUMNS = 2048;
constexpr int SIDE = 3;

#ifdef GPUCORON_KEEP
// A row of the kernels is as long as nine rows of a frame: in a CPU's cache it serves so many frames.
constexpr int FRAMES_TOGETHER = 8;
#else
constexpr int FRAMES_TOGETHER = 1;
#endif

// Convolve the pixels inside the edges with a kernel of 3 x 3, in place; beyond them are zeros.
//
// kernel : (3, 3, ny, nx) with PER_PIXEL, else (3, 3). The order of the sum is jwst's: row by row, the middle last. A block
// goes down its frames with the three rows in shared memory that it still needs as they were. grid: frames, along y.
template <bool PER_PIXEL>
__global__ void deconvolve_coupling(float* __restrict__ data, const float* __restrict__ kernel, int n_frames, int ny, int nx,
                                    int bottom, int top, int left, int right) {
  __shared__ float kept[FRAMES_TOGETHER][SIDE][MOST_COLUMNS + 2];
  const int64 n_pixels = int64(ny) * nx;
  const int n_rows = ny - bottom - top;
  const int n_columns = nx - left - right;
  for (int first = blockIdx.y * FRAMES_TOGETHER; first < n_frames; first += gridDim.y * FRAMES_TOGETHER) {
    const int n_together = smaller(FRAMES_TOGETHER, n_frames - first);
    float* const frames = data + first * n_pixels + int64(bottom) * nx + left;
    auto fetch = [&](int row) {
      for (int frame = 0; frame < n_together; ++frame) {
        const float* from = frames + frame * n_pixels + int64(row) * nx;
        float* to = kept[frame][(row + 1) % SIDE];
        const bool is_inside = row >= 0 && row < n_rows;
        for (int column = threadIdx.x; column < n_columns; column += blockDim.x) to[column + 1] = is_inside ? from[column] : 0.0f;
        if (threadIdx.x == 0) to[0] = to[n_columns + 1] = 0.0f;
      }
    };
    fetch(-1);
    fetch(0);
    for (int row = 0; row < n_rows; ++row) {
      fetch(row + 1);
      __syncthreads();
      const float* of_row = PER_PIXEL ? kernel + int64(bottom + row) * nx + left : kernel;
      const int64 apart = PER_PIXEL ? n_pixels : 1;
      for (int frame = 0; frame < n_together; ++frame) {
        // The kernel is flipped, as in a convolution: its first row meets the row after.
        const float* after = kept[frame][(row + 2) % SIDE];
        const float* here = kept[frame][(row + 1) % SIDE];
        const float* before = kept[frame][row % SIDE];
        float* to = frames + frame * n_pixels + int64(row) * nx;
        for (int column = threadIdx.x; column < n_columns; column += blockDim.x) {
          const float* factors = of_row + (PER_PIXEL ? column : 0);
          float sum = 0.0f;
          sum += factors[0 * apart] * after[column + 2];
          sum += factors[1 * apart] * after[column + 1];
          sum += factors[2 * apart] * after[column];
          sum += factors[3 * apart] * here[column + 2];
          sum += factors[5 * apart] * here[column];
          sum += factors[6 * apart] * before[column + 2];
          sum += factors[7 * apart] * before[column + 1];
          sum += factors[8 * apart] * before[column];
          sum += factors[4 * apart] * here[column + 1];
          to[column] = sum;
        }
      }
      __syncthreads();
    }
    __syncthreads();
  }
}

}  // namespace gpucoron
