// Straight lines through the early groups of a ramp, in running sums of float64.
#pragma once

#include "types.cuh"

namespace gpucoron {

// A line through the first groups, equally spaced: y_0 + y_1 + ..., and the sum of all such sums so far. One pass serves
// every length: the sums are kept at each group that the line may end with.
struct RunningLine {
  double total = 0.0;
  double sum_of_totals = 0.0;
  double kept_total = 0.0;
  double kept_sum_of_totals = 0.0;
  int length = 0;

  __device__ void add(double value, int n_groups, bool may_end) {
    total += value;
    sum_of_totals += total;
    if (!may_end) return;
    kept_total = total;
    kept_sum_of_totals = sum_of_totals;
    length = n_groups;
  }

  __device__ double per_group() const {
    const double n = length;
    return (n * kept_total - kept_sum_of_totals - (n - 1.0) / 2.0 * kept_total) / (n * (n * n - 1.0) / 12.0);
  }

  // The first group is read one step after time zero.
  __device__ double at_zero(double per_group) const {
    const double n = length;
    return kept_total / n - per_group * (n + 1.0) / 2.0;
  }
};

__device__ inline bool is_lost(float value, uint32 dq) { return (dq & DO_NOT_USE) || is_nan(value); }

}  // namespace gpucoron
