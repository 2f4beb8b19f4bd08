// Likelihood fits with jump rejection, as likelihood.cu, on a CPU: 16 neighbouring ramps are fitted together. The few ramps
// that may have jumps, and those without a valid covariance, are then searched one by one.
//
// coefficients : (16, n_diffs), see Covariance. comparisons : pairs that sort the middle of n_diffs planes, then those for the
// next even number. rules: bits, see Covariance. max_one_sided: with this many used differences or fewer, only upward jumps
// are rejected. Results : one number per ramp.
#include "cpu/likelihood_wide.hpp"

namespace gpucoron {

// Fit the ramps whose differences and masks are in the planes. Return whether any difference was rejected; the ones that
// remain are then marked in `used`.
template <bool MASKED, class Result>
bool fit_together(const WideRamps<MASKED>& ramps, int n, const Result& results) {
  const LikelihoodTask& task = ramps.task;
  RampPlanes& planes = ramps.planes;
  Masks is_searched{};
  Reals rate;
  if (task.rules & REJECT_JUMPS) {
    const Reals photons = ramps.guess() / ramps.gain;
    // Most long ramps are swept down, too, because chi-square grows with their length.
    const bool is_long = ramps.n() > task.threshold_one;
    WideChiSquare sums = is_long ? ramps.template eliminate<2>(photons) : ramps.template eliminate<0>(photons);
    rate = sums.B / sums.C;
    // No rejection can decrease chi-square by more than its value.
    const Reals least = all(smaller(task.threshold_one, task.threshold_two) * (1.0 - MARGIN));
    is_searched = least < sums.A - sums.B * rate;
    if (ramps.n() > 1 && is_any(is_searched)) {
      if (!is_long) ramps.template eliminate<2>(photons);
      is_searched = is_searched & ramps.may_lose(rate, sums.C);
    }
    is_searched = is_searched | ramps.lacks_covariance(photons);
  } else {
    rate = ramps.mean();
  }
  Masks is_odd;
  const WideResult fit = ramps.fit(rate, is_odd);
  store_reals(fit.countrate, results.countrate, n);
  store_reals(fit.uncert, results.uncert, n);
  store_reals(fit.chisq, results.chisq, n);
  store_reals(fit.var_poisson, results.var_poisson, n);
  store_reals(fit.var_rdnoise, results.var_rdnoise, n);
  is_searched = is_searched | is_odd;
  if (!is_any(is_searched)) return false;

  const auto lane_of = [](const auto& two, int lane) { return lane < 8 ? two.a[lane] : two.b[lane - 8]; };
  const Scratch columns{planes.of_one.data(), planes.words.data(), 1, ramps.n()};
  bool is_hit = false;
  for (int lane = 0; lane < n; ++lane) {
    if (!lane_of(is_searched, lane)) continue;
    const GivenDifferences source{reinterpret_cast<const double*>(ramps.diffs()) + lane, planes.used.data() + lane, TOGETHER};
    columns.use(source);
    const int n_used = columns.count();
    const NoisyRamp<GivenDifferences> ramp{source, task.covariance, columns, lane_of(ramps.gain, lane),
                                           lane_of(ramps.noise, lane), lane_of(ramps.dark, lane)};
    const LikelihoodResult result =
        fit_and_reject(ramp, task.threshold_one, task.threshold_two, task.max_one_sided, task.rules);
    using Value = std::remove_reference_t<decltype(*results.countrate)>;
    results.countrate[lane] = Value(result.countrate);
    results.uncert[lane] = Value(result.uncert);
    results.chisq[lane] = Value(result.chisq);
    results.var_poisson[lane] = Value(result.var_poisson);
    results.var_rdnoise[lane] = Value(result.var_rdnoise);
    if (columns.count() == n_used) continue;
    is_hit = true;
    for (int i = 0; i < ramps.n(); ++i) planes.used[i * TOGETHER + lane] = columns.is_used(i);
  }
  return is_hit;
}

// Where the results of neighbouring ramps begin.
template <class Value>
struct ResultPlaces {
  Value *countrate, *uncert, *chisq, *var_poisson, *var_rdnoise;
};

// Fill `kept` from the flags of used differences; return whether any is not used.
inline bool mask_planes(RampPlanes& planes) {
  Flags used = all_of<Flags>(1);
  for (int i = 0; i < planes.n; ++i) used &= planes.marks(i);
  if (!is_any(used == 0)) return false;
  for (int i = 0; i < planes.n; ++i) planes.plane(1)[i] = reals_of(planes.marks(i));
  return true;
}

// diffs, diffs2use, used : (n_diffs, n_ramps); diffs2use may be null. sig : (n_ramps). grid: strips, along y.
__global__ void fit_difference_strips(const double* diffs, const uint8* diffs2use, const double* sig,
                                      const double* coefficients, const int* comparisons, double* countrate, double* uncert,
                                      double* chisq, double* var_poisson, double* var_rdnoise, uint8* used, int n_diffs,
                                      int64 n_ramps, int n_alphas, int n_betas, int n_comparisons, int n_even_comparisons,
                                      double threshold_one, double threshold_two, int max_one_sided, int rules, int64 strip) {
  static thread_local RampPlanes planes{};
  planes.reserve(n_diffs);
  const LikelihoodTask task{{coefficients, n_diffs, n_alphas, n_betas},
                            {comparisons, n_comparisons},
                            {comparisons + 2 * n_comparisons, n_even_comparisons},
                            threshold_one, threshold_two, max_one_sided, rules};
  for (int64 start = blockIdx.y * strip; start < n_ramps; start += gridDim.y * strip)
    for (int64 at = start; at < smaller(start + strip, n_ramps); at += TOGETHER) {
      const int n = int(smaller(int64(TOGETHER), smaller(start + strip, n_ramps) - at));
      for (int i = 0; i < n_diffs; ++i) {
        planes.plane(0)[i] = load_reals(diffs + i * n_ramps + at, n);
        const Flags marks = diffs2use ? load<Flags>(diffs2use + i * n_ramps + at, n) : all_of<Flags>(1);
        planes.mark(i, marks);
        store(marks, used + i * n_ramps + at, n);
      }
      for (int i = 0; i < n_diffs && at + TOGETHER < smaller(start + strip, n_ramps); ++i) {
        __builtin_prefetch(diffs + i * n_ramps + at + TOGETHER);
        __builtin_prefetch(diffs + i * n_ramps + at + TOGETHER + 8);
      }
      const Reals noise = load_reals(sig + at, n);
      const ResultPlaces<double> results{countrate + at, uncert + at, chisq + at, var_poisson + at, var_rdnoise + at};
      const auto fit = [&](auto ramps) { return fit_together(ramps, n, results); };
      const bool is_hit = mask_planes(planes)
                              ? fit(WideRamps<true>{task, planes, all(1.0), noise * noise, all(0.0)})
                              : fit(WideRamps<false>{task, planes, all(1.0), noise * noise, all(0.0)});
      if (!is_hit) continue;
      for (int i = 0; i < n_diffs; ++i)
        store(planes.marks(i), used + i * n_ramps + at, n);
    }
}

// The groups of neighbouring ramps. With ZEROFRAME, the first read is a separate group, and the rest of the first group is
// the second one.
struct GroupPlanes {
  const float* data;  // pointers to the first group of the first ramp
  const uint8* groupdq;
  const float* zeroframe;
  int64 n_pixels;
  int n_reads;
  uint32 unusable;
  int n;  // ramps

  using Values = Wide<float, TOGETHER>;

  void read(int k, Values& group) const {
    const int64 row = zeroframe ? larger(k - 1, 0) : k;
    group = load<Values>(data + row * n_pixels, n);
    if (!zeroframe || k > 1) return;
    const Values first = load<Values>(zeroframe, n);
    group = k == 0 ? first : (group * float(n_reads) - first) / float(n_reads - 1);
  }

  Flags good(int k) const {
    const int64 row = zeroframe ? larger(k - 1, 0) : k;
    const auto flags = load<Flags>(groupdq + row * n_pixels, n) & uint8(unusable);
    return Flags(flags == 0) & uint8(1);
  }

  // Fill the planes with the differences of neighbouring groups, counts per second.
  void difference(const Covariance& covariance, RampPlanes& planes) const {
    Values before, here;
    read(0, before);
    Flags good_before = good(0);
    for (int i = 0; i < planes.n; ++i) {
      read(i + 1, here);
      const Values step = here - before;
      planes.plane(0)[i] = load_reals(reinterpret_cast<const float*>(&step)) / all(covariance.delta_t(i));
      const Flags good_here = good(i + 1);
      planes.mark(i, good_here & good_before);
      before = here;
      good_before = good_here;
    }
  }
};

// n_reads: reads of the first group, if there is a zeroframe. results : (nints, ny, nx). grid: strips of all integrations,
// along y.
__global__ void fit_group_strips(const float* data, uint8* groupdq, const float* gain, const float* readnoise,
                                 const float* dark_current, const float* zeroframe, const double* coefficients,
                                 const int* comparisons, float* countrate, float* uncert, float* chisq, float* var_poisson,
                                 float* var_rdnoise, int n_ints, int n_groups, int64 n_pixels, int n_reads, int unusable,
                                 int n_alphas, int n_betas, int n_comparisons, int n_even_comparisons, double threshold_one,
                                 double threshold_two, int max_one_sided, int rules, int64 strip) {
  // With ZEROFRAME, the first difference is between reads of the first group.
  const int first_later_group = zeroframe ? 0 : 1;
  const int n_diffs = n_groups - first_later_group;
  static thread_local RampPlanes planes{};
  planes.reserve(n_diffs);
  const LikelihoodTask task{{coefficients, n_diffs, n_alphas, n_betas},
                            {comparisons, n_comparisons},
                            {comparisons + 2 * n_comparisons, n_even_comparisons},
                            threshold_one, threshold_two, max_one_sided, rules};
  const int64 n_strips = (n_pixels + strip - 1) / strip;
  for (int64 number = blockIdx.y; number < n_strips * n_ints; number += gridDim.y) {
    const int64 integration = number / n_strips, start = number % n_strips * strip;
    const int64 stop = smaller(start + strip, n_pixels);
    for (int64 pixel = start; pixel < stop; pixel += TOGETHER) {
      const int n = int(smaller(int64(TOGETHER), stop - pixel));
      const int64 first = integration * n_groups * n_pixels + pixel, at = integration * n_pixels + pixel;
      const GroupPlanes groups{data + first, groupdq + first, zeroframe ? zeroframe + at : nullptr, n_pixels, n_reads,
                               uint32(unusable), n};
      groups.difference(task.covariance, planes);
      for (int k = 0; k < n_groups && pixel + TOGETHER < stop; ++k)
        __builtin_prefetch(data + first + k * n_pixels + TOGETHER);
      const Reals sig = load_reals(readnoise + pixel, n) / all(sqrt(2.0));
      const Reals gains = load_reals(gain + pixel, n);
      const Reals dark = dark_current ? load_reals(dark_current + pixel, n) : all(0.0);
      const ResultPlaces<float> results{countrate + at, uncert + at, chisq + at, var_poisson + at, var_rdnoise + at};
      const auto fit = [&](auto ramps) { return fit_together(ramps, n, results); };
      const bool is_hit = mask_planes(planes) ? fit(WideRamps<true>{task, planes, gains, sig * sig, dark})
                                              : fit(WideRamps<false>{task, planes, gains, sig * sig, dark});
      if (!is_hit) continue;
      // JUMP_DET may be among the unusable flags, so go backward: the flags of earlier groups are still unchanged.
      for (int i = n_diffs - 1; i >= 0; --i) {
        const int64 later = i + first_later_group;
        const auto before = groups.good(i) & groups.good(i + 1);
        const auto left = planes.marks(i);
        const auto flags = load<Flags>(groupdq + first + later * n_pixels, n);
        store(flags | (before & ~left) * uint8(JUMP_DET), groupdq + first + later * n_pixels, n);
      }
    }
  }
}

}  // namespace gpucoron
