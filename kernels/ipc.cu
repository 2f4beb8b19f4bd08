// Capacitive coupling between pixels: a deconvolution of each frame. One launch: deconvolve_ipc.
#include "types.cuh"

namespace gpucoron {

// As the launcher has it: rows of more pixels are not taken.
constexpr int MOST_COLUMNS = 2048;

#ifdef GPUCORON_KEEP
// A row of the kernels is as long as nine rows of a frame: in a CPU's cache it serves so many frames.
constexpr int FRAMES_TOGETHER = 8;
#else
constexpr int FRAMES_TOGETHER = 1;
#endif

// The sum over a kernel's factors, `apart` from each other, in jwst's order: row by row, the middle last. The kernel is
// flipped, as in a convolution: its first row meets the last of `lines`, which begin at the neighbour on the left.
template <int SIDE, int TAP = 0>
__device__ inline float add_taps(float sum, const float* factors, int64 apart, const float* const* lines, int column) {
  constexpr int N_TAPS = SIDE * SIDE, MIDDLE = N_TAPS / 2;
  if constexpr (TAP == N_TAPS) {
    return sum + factors[MIDDLE * apart] * lines[SIDE / 2][column + SIDE / 2];
  } else {
    if constexpr (TAP != MIDDLE) sum += factors[TAP * apart] * lines[SIDE - 1 - TAP / SIDE][column + SIDE - 1 - TAP % SIDE];
    return add_taps<SIDE, TAP + 1>(sum, factors, apart, lines, column);
  }
}

// Convolve the pixels inside the edges with a kernel of SIDE x SIDE, in place; beyond them are zeros.
//
// kernel : (SIDE, SIDE, ny, nx) with PER_PIXEL, else (SIDE, SIDE). A block goes down its frames with those rows in shared
// memory that it still needs as they were. grid: frames, along y.
template <int SIDE, bool PER_PIXEL>
__global__ void deconvolve_ipc(float* __restrict__ data, const float* __restrict__ kernel, int n_frames, int ny, int nx,
                                    int bottom, int top, int left, int right) {
  __shared__ float kept[FRAMES_TOGETHER][SIDE][MOST_COLUMNS + SIDE - 1];
  constexpr int REACH = SIDE / 2;
  const int64 n_pixels = int64(ny) * nx;
  const int n_rows = ny - bottom - top;
  const int n_columns = nx - left - right;
  for (int first = blockIdx.y * FRAMES_TOGETHER; first < n_frames; first += gridDim.y * FRAMES_TOGETHER) {
    const int n_together = smaller(FRAMES_TOGETHER, n_frames - first);
    float* const frames = data + first * n_pixels + int64(bottom) * nx + left;
    auto fetch = [&](int row) {
      for (int frame = 0; frame < n_together; ++frame) {
        const float* from = frames + frame * n_pixels + int64(row) * nx;
        float* to = kept[frame][(row + REACH) % SIDE];
        const bool is_inside = row >= 0 && row < n_rows;
        for (int column = threadIdx.x; column < n_columns; column += blockDim.x)
          to[column + REACH] = is_inside ? from[column] : 0.0f;
        if (threadIdx.x == 0)
          for (int beyond = 0; beyond < REACH; ++beyond) to[beyond] = to[REACH + n_columns + beyond] = 0.0f;
      }
    };
    for (int row = -REACH; row < REACH; ++row) fetch(row);
    for (int row = 0; row < n_rows; ++row) {
      fetch(row + REACH);
      __syncthreads();
      const float* of_row = PER_PIXEL ? kernel + int64(bottom + row) * nx + left : kernel;
      const int64 apart = PER_PIXEL ? n_pixels : 1;
      for (int frame = 0; frame < n_together; ++frame) {
        const float* lines[SIDE];
        for (int line = 0; line < SIDE; ++line) lines[line] = kept[frame][(row + line) % SIDE];
        float* to = frames + frame * n_pixels + int64(row) * nx;
        GPUCORON_VECTORS
        for (int column = threadIdx.x; column < n_columns; column += blockDim.x)
          to[column] = add_taps<SIDE>(0.0f, of_row + (PER_PIXEL ? column : 0), apart, lines, column);
      }
      __syncthreads();
    }
    __syncthreads();
  }
}

}  // namespace gpucoron
