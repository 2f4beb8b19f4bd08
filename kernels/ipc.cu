// IPC correction: deconvolution of the capacitive coupling between pixels. One launch: deconvolve_ipc.
#include "types.cuh"

namespace gpucoron {

// The longest supported row, as in the launcher.
constexpr int MOST_COLUMNS = 2048;

#ifdef GPUCORON_KEEP
// On a CPU a block keeps only the rows that one row needs, of several frames, for which it uses a row of per-pixel
// kernels, as large as nine rows of a frame, from the cache.
constexpr int MOST_TOGETHER = 8, ROWS_LOADED = 1;
#else
// On a GPU it keeps as many rows as fit, because its threads wait for each other at every step.
constexpr int MOST_TOGETHER = 1, ROWS_LOADED = 4;
#endif

// Sum over a kernel, with a stride of `apart`, in the order of jwst: row by row, the middle last. The kernel is flipped, as
// in a convolution: its first row multiplies the last of `lines`, which begin at the left neighbour.
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

// Convolve the pixels inside the edges with a kernel of SIDE x SIDE, in place, with zeros outside.
//
// kernel : (SIDE, SIDE, ny, nx) with PER_PIXEL, else (SIDE, SIDE). A block processes n_together frames some rows at a time,
// and keeps the original rows that it still needs in shared memory. grid: frames, along y.
template <int SIDE, bool PER_PIXEL>
__global__ void deconvolve_ipc(float* __restrict__ data, const float* __restrict__ kernel, int n_frames, int ny, int nx,
                                    int bottom, int top, int left, int right, int n_together) {
  constexpr int REACH = SIDE / 2;
  constexpr int N_KEPT = MOST_TOGETHER * SIDE * (MOST_COLUMNS + SIDE - 1);
  __shared__ float kept[N_KEPT];
  const int64 n_pixels = int64(ny) * nx;
  const int n_rows = ny - bottom - top;
  const int n_columns = nx - left - right;
  const int pitch = n_columns + SIDE - 1;
  const int most_frames = smaller(n_together, N_KEPT / (SIDE * pitch));
  const int n_lines = MOST_TOGETHER > 1 ? SIDE : N_KEPT / (most_frames * pitch);
  const int rows_at_once = n_lines - (SIDE - 1);
  const auto line = [&](int frame, int row) { return kept + (frame * n_lines + (row + REACH) % n_lines) * pitch; };
  for (int first = blockIdx.y * most_frames; first < n_frames; first += gridDim.y * most_frames) {
    const int n_frames_here = smaller(most_frames, n_frames - first);
    float* const frames = data + first * n_pixels + int64(bottom) * nx + left;
    const auto fetch = [&](int start, int stop) {
      for (int frame = 0; frame < n_frames_here; ++frame) {
        for (int row = start; row < stop; row += ROWS_LOADED) {
          const float* const from = frames + frame * n_pixels + int64(row) * nx;
          float* to[ROWS_LOADED];
          bool is_inside[ROWS_LOADED];
#pragma unroll
          for (int i = 0; i < ROWS_LOADED; ++i) {
            to[i] = line(frame, row + i) + REACH;
            is_inside[i] = row + i >= 0 && row + i < smaller(n_rows, stop);
          }
          GPUCORON_VECTORS
          for (int column = threadIdx.x; column < n_columns; column += blockDim.x) {
            float values[ROWS_LOADED];
#pragma unroll
            for (int i = 0; i < ROWS_LOADED; ++i) values[i] = is_inside[i] ? from[int64(i) * nx + column] : 0.0f;
#pragma unroll
            for (int i = 0; i < ROWS_LOADED; ++i)
              if (row + i < stop) to[i][column] = values[i];
          }
        }
        for (int row = start + threadIdx.x; row < stop; row += blockDim.x)
          for (int beyond = 0; beyond < REACH; ++beyond)
            line(frame, row)[beyond] = line(frame, row)[REACH + n_columns + beyond] = 0.0f;
      }
    };
    fetch(-REACH, REACH);
    for (int start = 0; start < n_rows; start += rows_at_once) {
      const int stop = smaller(start + rows_at_once, n_rows);
      fetch(start + REACH, stop + REACH);
      __syncthreads();
      for (int row = start; row < stop; ++row) {
        const float* of_row = PER_PIXEL ? kernel + int64(bottom + row) * nx + left : kernel;
        const int64 apart = PER_PIXEL ? n_pixels : 1;
        for (int frame = 0; frame < n_frames_here; ++frame) {
          const float* lines[SIDE];
          for (int i = 0; i < SIDE; ++i) lines[i] = line(frame, row + i - REACH);
          float* to = frames + frame * n_pixels + int64(row) * nx;
          GPUCORON_VECTORS
          for (int column = threadIdx.x; column < n_columns; column += blockDim.x)
            to[column] = add_taps<SIDE>(0.0f, of_row + (PER_PIXEL ? column : 0), apart, lines, column);
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace gpucoron
