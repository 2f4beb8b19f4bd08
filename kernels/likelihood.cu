// Likelihood fits with jump rejection, one launch: a thread fits one ramp after the other.
//
// coefficients : (16, n_diffs), see Covariance. scratch : (5, n_diffs + 1, threads of the grid)
// and words : (words of n_diffs, threads of the grid), uninitialized. rules: bits, see Covariance. max_one_sided: with this
// many used differences or fewer, only upward jumps are rejected.
#include "likelihood_jumps.cuh"

namespace gpucoron {

__device__ inline Scratch scratch_of_thread(double* scratch, uint32* words, int n_diffs) {
  return {scratch + thread_pixel(), words + thread_pixel(), int64(gridDim.x) * blockDim.x, n_diffs};
}

// diffs, diffs2use, used : (n_diffs, n_ramps); diffs2use may be null. sig and results : (n_ramps). grid: any.
__global__ void fit_differences(const double* diffs, const uint8* diffs2use, const double* sig, const double* coefficients,
                                double* scratch, uint32* words, double* countrate, double* uncert, double* chisq,
                                double* var_poisson, double* var_rdnoise, uint8* used, int n_diffs, int64 n_ramps,
                                int n_alphas, int n_betas, double threshold_one, double threshold_two, int max_one_sided,
                                int rules) {
  const Covariance covariance{coefficients, n_diffs, n_alphas, n_betas};
  const Scratch columns = scratch_of_thread(scratch, words, n_diffs);
  for (int64 at = thread_pixel(); at < n_ramps; at += columns.n_threads) {
    const GivenDifferences source{diffs + at, diffs2use ? diffs2use + at : nullptr, n_ramps};
    columns.use(source);
    const NoisyRamp<GivenDifferences> ramp{source, covariance, columns, 1.0, sig[at] * sig[at], 0.0};
    const LikelihoodResult result = fit_and_reject(ramp, threshold_one, threshold_two, max_one_sided, rules);
    countrate[at] = result.countrate;
    uncert[at] = result.uncert;
    chisq[at] = result.chisq;
    var_poisson[at] = result.var_poisson;
    var_rdnoise[at] = result.var_rdnoise;
    for (int i = 0; i < n_diffs; ++i) used[i * n_ramps + at] = uint8(columns.is_used(i));
  }
}

// Fit ramps of groups; set JUMP_DET in the group after each rejected difference.
//
// n_reads: reads of the first group, if there is a zeroframe. results : (nints, ny, nx). grid: any.
__global__ void fit_groups(const float* data, uint8* groupdq, const float* gain, const float* readnoise,
                           const float* dark_current, const float* zeroframe, const double* coefficients, double* scratch,
                           uint32* words, float* countrate, float* uncert, float* chisq, float* var_poisson,
                           float* var_rdnoise, int n_ints, int n_groups, int64 n_pixels, int n_reads, int unusable,
                           int n_alphas, int n_betas, double threshold_one, double threshold_two, int max_one_sided,
                           int rules) {
  // With ZEROFRAME, the first difference is between reads of the first group.
  const int first_later_group = zeroframe ? 0 : 1;
  const int n_diffs = n_groups - first_later_group;
  const Covariance covariance{coefficients, n_diffs, n_alphas, n_betas};
  const Scratch columns = scratch_of_thread(scratch, words, n_diffs);
  for (int64 at = thread_pixel(); at < n_ints * n_pixels; at += columns.n_threads) {
    const int64 pixel = at % n_pixels;
    const int64 start = at / n_pixels * n_groups * n_pixels + pixel;
    GroupDifferences source{data + start, groupdq + start, n_pixels, covariance, uint32(unusable), zeroframe != nullptr,
                            0.0f, 0.0f};
    if (zeroframe) {
      source.zeroframe = zeroframe[at];
      source.other_reads = (data[start] * float(n_reads) - source.zeroframe) / float(n_reads - 1);
    }
    columns.use(source);
    const double sig = double(readnoise[pixel]) / sqrt(2.0);
    const NoisyRamp<GroupDifferences> ramp{source,    covariance, columns, gain[pixel],
                                           sig * sig, dark_current ? double(dark_current[pixel]) : 0.0};
    const LikelihoodResult result = fit_and_reject(ramp, threshold_one, threshold_two, max_one_sided, rules);
    countrate[at] = float(result.countrate);
    uncert[at] = float(result.uncert);
    chisq[at] = float(result.chisq);
    var_poisson[at] = float(result.var_poisson);
    var_rdnoise[at] = float(result.var_rdnoise);
    // JUMP_DET may be among the unusable flags, so go backward: the flags of earlier groups are still unchanged.
    for (int i = n_diffs - 1; i >= 0; --i) {
      if (columns.is_used(i) || !source.may_use(i)) continue;
      groupdq[start + (i + first_later_group) * n_pixels] |= uint8(JUMP_DET);
    }
  }
}

}  // namespace gpucoron
