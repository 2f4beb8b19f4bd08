// Windows of persistence. One launch: open_windows.
#include "types.cuh"

namespace gpucoron {

// Open windows for one pixel, and set `flag` in its groups within them.
//
// ends : (ny, nx), s, changed in place; times : (nints, ngroups), s; window, s. grid: pixels.
__global__ void open_windows(const float* data, uint8* groupdq, double* ends, const double* times, int n_ints, int n_groups,
                             int64 n_pixels, double window, float threshold, int has_threshold, int flag) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  double open_until = ends[pixel];
  for (int integration = 0; integration < n_ints; ++integration) {
    int n_saturated = 0;
    for (int group = 0; group < n_groups; ++group) {
      const int64 frame = int64(integration) * n_groups + group;
      const double now = times[frame], end = now + window;
      const uint32 dq = groupdq[frame * n_pixels + pixel];
      if (open_until < now) open_until = 0.0;
      n_saturated += (dq & SATURATED) != 0;
      if (n_saturated == 1) open_until = end;
      if (has_threshold && data[frame * n_pixels + pixel] > threshold && !(open_until > 0.0)) open_until = end;
      // from the file of an exposure that started later
      if (open_until > end) open_until = 0.0;
      if (open_until > 0.0 && (dq | uint32(flag)) != dq) groupdq[frame * n_pixels + pixel] = uint8(dq | uint32(flag));
    }
  }
  ends[pixel] = open_until;
}

}  // namespace gpucoron
