// Pedestals (kTC) and slopes of ramps. Launches: fit_ktc; or count_usable_groups, fit_mean_slopes.
#include "subtract_ktc.cuh"

namespace gpucoron {

// One line for each ramp. limit : (ny, nx) float64, NaN where no group counts; pedestal, slope : (nints, ny, nx).
// grid: pixels x integrations.
__global__ void fit_ktc(const float* data, const uint8* groupdq, const double* limit, double* pedestal, double* slope,
                              int n_ints, int n_groups, int64 n_pixels, double group_time) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const double highest = limit[pixel];
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = int64(integration) * n_groups * n_pixels + pixel;
    RunningLine line;
    for (int group = 0; group < n_groups; ++group) {
      const float value = data[start + group * n_pixels];
      if (is_lost(value, groupdq[start + group * n_pixels])) break;
      line.add(value, group + 1, double(value) < highest);
    }
    const int64 at = int64(integration) * n_pixels + pixel;
    const double per_group = line.length < 2 ? 0.0 : line.per_group();
    pedestal[at] = line.length < 2 ? 0.0 : line.at_zero(per_group);
    slope[at] = line.length < 2 ? 0.0 : per_group / group_time;
  }
}

// The number of groups before the first one that is lost. n_usable : (nints, ny, nx). grid: pixels x integrations.
__global__ void count_usable_groups(const float* data, const uint8* groupdq, int* n_usable, int n_ints, int n_groups,
                                    int64 n_pixels) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  for (int integration = blockIdx.y; integration < n_ints; integration += gridDim.y) {
    const int64 start = int64(integration) * n_groups * n_pixels + pixel;
    int group = 0;
    while (group < n_groups && !is_lost(data[start + group * n_pixels], groupdq[start + group * n_pixels])) ++group;
    n_usable[int64(integration) * n_pixels + pixel] = group;
  }
}

// One line for each pixel, through the mean of its integrations' usable groups without their pedestals. slope : (ny, nx).
// grid: pixels.
__global__ void fit_mean_slopes(const float* data, const int* n_usable, const double* pedestal, const double* limit,
                                double* slope, int n_ints, int n_groups, int64 n_pixels, double group_time) {
  const int64 pixel = thread_pixel();
  if (pixel >= n_pixels) return;
  const double highest = limit[pixel];
  RunningLine line;
  for (int group = 0; group < n_groups; ++group) {
    double mean = 0.0;
    int count = 0;
    for (int integration = 0; integration < n_ints; ++integration) {
      const int64 at = int64(integration) * n_pixels + pixel;
      if (group >= n_usable[at]) continue;
      mean += double(data[(int64(integration) * n_groups + group) * n_pixels + pixel]) - pedestal[at];
      ++count;
    }
    if (count == 0) break;
    mean /= count;
    line.add(mean, group + 1, mean < highest);
  }
  slope[pixel] = line.length < 2 ? 0.0 : line.per_group() / group_time;
}

}  // namespace gpucoron
