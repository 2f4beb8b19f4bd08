// 1/f noise of many frames. Launches for background masks: smooth_background; then, in rounds, find_frame_medians (twice),
// narrow_background, find_frame_medians, mark_bright, drop_sources. Launches for models of the noise: find_frame_medians
// (twice), mark_good, find_frame_medians; then summarize_rows, or
// pack_good, bridge_holes, smooth_lines and, in rounds, summarize_rows, leave_out_strays and these three again for frames
// that lost samples.
//
// Frames are (n_frames, ny, nx) float32, rows the fast axis; good : of that shape, 0 or 1. A line is a frame, row after row.
// active : (n_frames), 0 for finished frames; may be null.
#include "subtract_1overf.cuh"

namespace gpucoron {

// Find the median and mean of each frame's good values or, with `centres`, of their distances; NaN without values. Without
// `good`, finite values are good. grid: one block per frame.
__global__ void find_frame_medians(const float* frames, const uint8* good, const float* centres, float* medians, float* means,
                                   int64 n_frames, int64 n_pixels) {
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    auto scan = [&](auto visit) {
      for (int64 pixel = threadIdx.x; pixel < n_pixels; pixel += blockDim.x) {
        const int64 at = frame * n_pixels + pixel;
        const float value = frames[at];
        if (good ? !good[at] : !is_finite(value)) continue;
        visit(centres ? absolute(value - centres[frame]) : value);
      }
    };
    const float median = float_median<Block>(scan);
    double sum = 0.0;
    int count = 0;
    scan([&](float value) {
      sum += value;
      ++count;
    });
    sum = Block::sum(sum);
    count = Block::sum(count);
    if (threadIdx.x > 0) continue;
    medians[frame] = median;
    means[frame] = float(sum / count);
  }
}

// Smooth frames by a Gaussian, with its weights from the middle outwards, ignoring values that are not finite; `offsets` is
// a smoothed frame of ones. complete : (n_frames), 1 for frames without such values. grid: pixels x frames.
__global__ void smooth_background(const float* frames, const uint8* complete, float* smooth, float* offsets, int64 n_frames,
                                  int ny, int nx, float middle, float next, float last) {
  const int64 n_pixels = int64(ny) * nx;
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const int y = int(pixel / nx);
  const int x = int(pixel % nx);
  const float inside = convolve([](int, int) { return 1.0f; }, y, x, ny, nx, middle, next, last);
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const float* image = frames + frame * n_pixels;
    auto value = [&](int row, int column) {
      const float there = image[int64(row) * nx + column];
      return is_finite(there) ? there : 0.0f;
    };
    auto known = [&](int row, int column) { return is_finite(image[int64(row) * nx + column]) ? 1.0f : 0.0f; };
    const int64 at = frame * n_pixels + pixel;
    const float blurred = convolve(value, y, x, ny, nx, middle, next, last);
    if (complete[frame]) {
      smooth[at] = blurred;
      offsets[at] = inside;
      continue;
    }
    const float seen = convolve(known, y, x, ny, nx, middle, next, last);
    float weight = 1.0f - inside + seen;
    if (weight < 1e-6f) weight = float_nan();
    smooth[at] = blurred / weight;
    offsets[at] = seen / weight;
  }
}

// Keep good pixels within `cut` standard deviations of their frame's median; all, if no value is below it.
// medians, mads, mean_deviations : (n_frames), the deviations from the median of the values below it. grid: pixels x frames.
__global__ void narrow_background(const float* frames, const float* medians, const float* mads, const float* mean_deviations,
                                  const uint8* good, uint8* narrowed, int64 n_frames, int64 n_pixels, float cut,
                                  float mad_to_sigma) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    float reach = cut * sigma_of(mads[frame], mean_deviations[frame], mad_to_sigma);
    if (is_nan(reach)) reach = __uint_as_float(0x7f800000u);  // infinity
    const int64 at = frame * n_pixels + pixel;
    const float value = frames[at];
    narrowed[at] = uint8(good[at] && value >= medians[frame] - reach && value <= medians[frame] + reach);
  }
}

// Mark good pixels at which the smooth frame is `cut` standard deviations above the background. medians : (n_frames), of the
// good pixels; mads, mean_deviations : as before. grid: pixels x frames.
__global__ void mark_bright(const float* smooth, const float* offsets, const float* medians, const float* mads,
                            const float* mean_deviations, const uint8* good, uint8* bright, int64 n_frames, int64 n_pixels,
                            float cut, float mad_to_sigma) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const float sigma = sigma_of(mads[frame], mean_deviations[frame], mad_to_sigma);
    const int64 at = frame * n_pixels + pixel;
    bright[at] = uint8(good[at] && smooth[at] > medians[frame] * offsets[at] + cut * sigma);
  }
}

// Drop the bright pixels of sources, large connected areas, from the good pixels. grid: pixels x frames.
__global__ void drop_sources(const uint8* bright, uint8* good, int64 n_frames, int ny, int nx) {
  const int64 n_pixels = int64(ny) * nx;
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const uint8* marked = bright + frame * n_pixels;
    if (marked[pixel] && is_source(marked, int(pixel / nx), int(pixel % nx), ny, nx)) good[frame * n_pixels + pixel] = 0;
  }
}

// Mark good pixels: background pixels that are, with their four neighbours, within `reaches` of the frame's median.
// grid: pixels x frames.
__global__ void mark_good(const float* frames, const uint8* masks, const float* medians, const float* reaches, uint8* good,
                          int64 n_frames, int ny, int nx) {
  const int64 n_pixels = int64(ny) * nx;
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const int y = int(pixel / nx);
  const int x = int(pixel % nx);
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    const float* image = frames + frame * n_pixels;
    auto is_outlier = [&](int64 at) {
      return !(is_finite(image[at]) && absolute(image[at] - medians[frame]) <= reaches[frame]);
    };
    const bool outlying = is_outlier(pixel) || (y > 0 && is_outlier(pixel - nx)) || (y + 1 < ny && is_outlier(pixel + nx)) ||
                          (x > 0 && is_outlier(pixel - 1)) || (x + 1 < nx && is_outlier(pixel + 1));
    good[frame * n_pixels + pixel] = uint8(masks[frame * n_pixels + pixel] && !outlying);
  }
}

// Find the median or, with MEAN, robust mean of the good values of each row; 0 without any. results : (n_frames, ny).
// grid: rows x lanes.
template <bool MEAN, int LANES>
__global__ void summarize_rows(const float* frames, const uint8* good, const int* active, float* results, int64 n_rows, int ny,
                               int nx, float mad_to_sigma, double narrowing) {
  using Group = Lanes<LANES>;
  const int64 row = Group::pixel();
  if (row >= n_rows || (active && !active[row / ny])) return;
  auto scan = [&](auto visit) {
    for (int column = Group::index(); column < nx; column += LANES)
      if (good[row * nx + column]) visit(frames[row * nx + column]);
  };
  float result;
  if (MEAN) {
    result = robust_mean<Group>(scan, mad_to_sigma, narrowing);
  } else {
    result = float_median<Group>(scan);
    if (is_nan(result)) result = 0.0f;
  }
  if (Group::index() == 0) results[row] = result;
}

// Store the good samples of each line contiguously, and their indices. n_before : good samples up to and including each one.
// grid: samples x lines.
__global__ void pack_good(const float* lines, const uint8* good, const int* n_before, const int* active, float* packed,
                          int* places, int64 n_lines, int length) {
  const int64 sample = thread_pixel();
  if (sample >= length) return;
  for (int64 line = blockIdx.y; line < n_lines; line += gridDim.y) {
    const int64 at = line * length + sample;
    if (!active[line] || !good[at]) continue;
    packed[line * length + n_before[at] - 1] = lines[at];
    places[line * length + n_before[at] - 1] = int(sample);
  }
}

// Bridge holes linearly between the smooth values of the good samples at their sides; constant beyond the outermost ones; 0
// in lines without good samples. projections: see bridge_level. grid: samples x lines.
__global__ void bridge_holes(const float* lines, const uint8* good, const int* n_before, const int* active,
                             const float* packed, const int* places, const double* projections, float* filled,
                             int64 n_lines, int length) {
  const int64 sample = thread_pixel();
  if (sample >= length) return;
  for (int64 line = blockIdx.y; line < n_lines; line += gridDim.y) {
    if (!active[line]) continue;
    const int64 start = line * length;
    if (good[start + sample]) {
      filled[start + sample] = lines[start + sample];
      continue;
    }
    const int before = n_before[start + sample];
    const int n_good = n_before[start + length - 1];
    double level = 0.0;
    if (n_good > 0) {
      level = bridge_level(packed + start, n_good, larger(before - 1, 0), projections);
      if (before > 0 && before < n_good) {
        const int left = places[start + before - 1];
        const int right = places[start + before];
        const double slope = (bridge_level(packed + start, n_good, before, projections) - level) / (right - left);
        level = level - slope * left + slope * double(sample);
      }
    }
    filled[start + sample] = float(level);
  }
}

// Smooth lines by Savitzky-Golay filters. projection : (window, window). active may be null. grid: samples x lines.
__global__ void smooth_lines(const float* lines, const int* active, const double* projection, float* smooth, int64 n_lines,
                             int length, int window) {
  const int64 sample = thread_pixel();
  if (sample >= length) return;
  for (int64 line = blockIdx.y; line < n_lines; line += gridDim.y) {
    if (active && !active[line]) continue;
    smooth[line * length + sample] = smooth_sample(lines + line * length, length, int(sample), projection, window);
  }
}

// Leave out samples at which the model is more than 3 standard deviations from its row's median; a frame without such samples
// is finished. medians : (n_frames, ny). grid: one block per frame.
__global__ void leave_out_strays(const float* models, const float* medians, uint8* good, int* active, int64 n_frames, int ny,
                                 int nx) {
  const int64 n_pixels = int64(ny) * nx;
  for (int64 frame = blockIdx.y; frame < n_frames; frame += gridDim.y) {
    if (!active[frame]) continue;
    auto each = [&](auto visit) {
      for (int64 pixel = threadIdx.x; pixel < n_pixels; pixel += blockDim.x) {
        const int64 at = frame * n_pixels + pixel;
        if (good[at]) visit(at, models[at] - medians[frame * ny + pixel / nx]);
      }
    };
    double sum = 0.0, squares = 0.0;
    int count = 0;
    each([&](int64, float deviation) {
      sum += deviation;
      squares += double(deviation) * double(deviation);
      ++count;
    });
    sum = Block::sum(sum);
    squares = Block::sum(squares);
    count = Block::sum(count);
    const double scatter = larger(squares - sum * sum / larger(count, 1), 0.0);
    const float reach = float(double(CUT) * sqrt(scatter / larger(count - 1, 1)));
    int n_left_out = 0;
    each([&](int64 at, float deviation) {
      if (!(absolute(deviation) > reach)) return;
      good[at] = 0;
      ++n_left_out;
    });
    n_left_out = Block::sum(n_left_out);
    if (threadIdx.x == 0) active[frame] = n_left_out > 0;
  }
}

}  // namespace gpucoron
