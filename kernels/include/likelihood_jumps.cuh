// Choose the differences of a ramp to reject (Brandt 2024, PASP 136, 045005), by determinants of blocks.
//
// Operations have the order of the published code, as in operations/likelihood/jumps.py: between equally likely choices,
// rounding decides. Equation numbers are those of PASP 136, 045004.
#pragma once

#include "likelihood.cuh"
#include "root.cuh"

namespace gpucoron {

constexpr int SCALED_EVERY = 10;
constexpr int TOO_FEW_TO_SEARCH = 3;
constexpr double ROUNDING = 1e-10;
// Ramps within this relative distance of a threshold are also searched.
constexpr double MARGIN = 1e-6;

// Relative determinants below this are 0 but for rounding.
constexpr double DEGENERATE = 1e-9;

// Rows of the scratch memory for the determinants, n + 1 numbers each. DC contains Theta during the sweep up.
constexpr int THETA = 0;
constexpr int PHI = 1;
constexpr int THETA_D = 2;
constexpr int DB = 3;
constexpr int DC = 4;

// The inverse covariance of a ramp for a guess of its rate, and the sums of chi-square.
template <class Source>
struct Determinants {
  const NoisyRamp<Source>& ramp;
  double photons;
  double scale;
  double determinant;
  double A, B, C;

  // Solve for the used differences of the ramp.
  __device__ Determinants(const NoisyRamp<Source>& ramp, double photons, int rules) : ramp(ramp), photons(photons) {
    scale = find_scale(rules & SCALE_FROM_USED);
    const Scratch& scratch = ramp.scratch;
    const int n = ramp.n();
    // Up: equations 38, 44 and 45.
    scratch.at(THETA, 0) = 1.0;
    scratch.at(THETA_D, 0) = 0.0;
    double theta_before = 0.0, theta = 1.0, Theta = 0.0, ThetaD = 0.0, beta_before = 0.0;
    for (int i = 0; i < n; ++i) {
      const double d = signal(i);
      Theta = i == 0 ? -theta : Theta * beta_before + sign(i) * theta;
      ThetaD = i == 0 ? -d * theta : beta_before * ThetaD + sign(i) * d * theta;
      const double alpha_here = alpha(i);
      const double next = i == 0 ? alpha_here : alpha_here * theta - beta_before * beta_before * theta_before;
      theta_before = theta;
      theta = next;
      beta_before = i + 1 < n ? beta(i) : 0.0;
      scratch.at(THETA, i + 1) = theta;
      scratch.at(THETA_D, i + 1) = ThetaD;
      scratch.at(DC, i) = Theta;
    }
    determinant = theta;
    // Down: equations 39, 46 to 48, 61 to 63.
    scratch.at(PHI, n) = 1.0;
    double phi_above = 0.0, phi = 1.0, Phi = 0.0, PhiD = 0.0;  // phi is that of i + 1, phi_above that of i + 2
    for (int i = n - 1; i >= 0; --i) {
      const double coupling = i + 1 < n ? beta(i) : 0.0;
      if (i + 1 < n) {
        Phi = Phi * coupling + sign(i + 1) * coupling * phi_above;
        PhiD = (PhiD + sign(i + 1) * signal(i + 1) * phi_above) * coupling;
      }
      const double theta_here = scratch.at(THETA, i);
      const double over = sign(i) / determinant;
      const double of_ones = over * (phi * scratch.at(DC, i) + theta_here * Phi) * scratch.used(i);
      scratch.at(DC, i) = of_ones;
      scratch.at(DB, i) = over * (phi * scratch.at(THETA_D, i + 1) + theta_here * PhiD);
      const double alpha_here = alpha(i);
      const double next = i + 1 < n ? alpha_here * phi - coupling * coupling * phi_above : alpha_here;
      phi_above = phi;
      phi = next;
      scratch.at(PHI, i) = phi;
    }
    // Equations 71 and 75. Sums start with -0.0, so that a sum of -0.0 keeps its sign.
    double crossed = -0.0, squares = -0.0;
    B = C = -0.0;
    for (int i = 0; i < n; ++i) {
      const double d = signal(i);
      const double phi_next = scratch.at(PHI, i + 1);
      double term = d * sign(i) / determinant;
      if (i > 0) term *= beta(i - 1);
      crossed += term * phi_next * scratch.at(THETA_D, i);
      squares += d * d * scratch.at(THETA, i) * phi_next / determinant;
      B += d * scratch.at(DC, i);
      C += scratch.at(DC, i);
    }
    A = 2.0 * crossed;
    A += squares;
  }

  __device__ double rate() const { return B / C; }
  __device__ double chisq() const { return (A - B * B / C) / scale; }

  __device__ static double sign(int i) { return i % 2 ? 1.0 : -1.0; }
  __device__ double signal(int i) const { return ramp.source.difference(i) * ramp.scratch.used(i); }
  __device__ double alpha(int i) const { return ramp.covariance.alpha(i, photons, ramp.noise) / scale; }
  __device__ double beta(int i) const { return coupled(i) / scale; }
  __device__ double coupled(int i) const {
    return ramp.covariance.beta(i, photons, ramp.noise) * ramp.scratch.used(i + 1) * ramp.scratch.used(i);
  }
  // Diagonal and first off-diagonal of the inverse covariance, without the mask.
  __device__ double inverse(int i) const {
    return ramp.scratch.at(THETA, i) * ramp.scratch.at(PHI, i + 1) / determinant;
  }
  __device__ double beside(int i) const {
    return -beta(i) * ramp.scratch.at(THETA, i) * ramp.scratch.at(PHI, i + 2) / determinant;
  }

 private:
  // The factor by which to divide the covariance so that its determinant is one.
  __device__ double find_scale(bool from_used) const {
    const int n = ramp.n();
    double before = 1.0, theta = ramp.covariance.alpha(0, photons, ramp.noise), found = 1.0;
    for (int i = 2; i <= n; ++i) {
      const double alpha_here = ramp.covariance.alpha(i - 1, photons, ramp.noise);
      const double beta_here = from_used ? coupled(i - 2) : ramp.covariance.beta(i - 2, photons, ramp.noise);
      const double next = alpha_here / found * theta - beta_here * beta_here / (found * found) * before;
      before = theta;
      theta = next;
      if (i % SCALED_EVERY == 0 || i == n) {
        const double root = root_of(theta, i);
        found = found * root;
        before = before / (theta / root);
        theta = 1.0;
      }
    }
    return found;
  }
};

// The decrease of chi-square, and the rate, without a difference or a pair of neighbours.
struct Omission {
  double drop;
  double rate;
};

// By the published formulas; for a pair that is the whole ramp, the result is rounding noise or NaN.
template <class Source>
struct PublishedOmissions {
  const Determinants<Source>& s;

  __device__ Omission one(int i) const {
    const Scratch& scratch = s.ramp.scratch;
    if (!scratch.is_used(i)) return {s.chisq() - s.chisq(), s.rate()};
    const double dB = scratch.at(DB, i), dC = scratch.at(DC, i), inverse = s.inverse(i);
    const double a = (inverse * s.B - dB * dC) / (s.C * inverse - dC * dC);
    const double b = (dB - a * dC) / inverse;
    const double chisq =
        (s.A + a * a * s.C - 2.0 * a * s.B + b * b * inverse - 2.0 * b * dB + 2.0 * a * b * dC) / s.scale;
    return {s.chisq() - chisq, a};
  }

  // `first` and `second`: the result without each of the two alone.
  __device__ Omission two(int i, const Omission& first, const Omission& second) const {
    const Scratch& scratch = s.ramp.scratch;
    // For a pair with an unused difference, omit only the other one.
    if (!scratch.is_used(i)) return second;
    if (!scratch.is_used(i + 1)) return first;
    const double A = s.A, B = s.B, C = s.C;
    const double dB1 = scratch.at(DB, i), dC1 = scratch.at(DC, i), inverse1 = s.inverse(i);
    const double dB2 = scratch.at(DB, i + 1), dC2 = scratch.at(DC, i + 1), inverse2 = s.inverse(i + 1);
    const double beside = s.beside(i);
    const double own = dC1 * dC1 - C * inverse1;
    const double shared = dC1 * dC2 - C * beside;
    const double signal = B * dC1 - dB1 * C;
    double c = signal / own - (B * dC2 - dB2 * C) / shared;
    c /= shared / own - (dC2 * dC2 - C * inverse2) / shared;
    const double b = (signal - c * shared) / own;
    const double a = (B - b * dC1 - c * dC2) / C;
    double chisq = A + a * a * C + b * b * inverse1 + c * c * inverse2;
    chisq -= 2.0 * a * B + 2.0 * b * dB1 + 2.0 * c * dB2;
    chisq += 2.0 * a * b * dC1 + 2.0 * a * c * dC2 + 2.0 * b * c * beside;
    chisq /= s.scale;
    return {s.chisq() - chisq, a};
  }
};

// With the residual r = C^-1 (d - a) and its covariance M, chi-square decreases by r M^-1 r. Holds for all pairs except the
// whole ramp, where the result is 0; if one difference would remain, the smallest one is kept. If few differences are used,
// the smallest one is always kept, and only upward jumps (both of a pair) are rejected.
template <class Source>
struct ResidualOmissions {
  const Determinants<Source>& s;
  int n_used;
  bool is_few;
  int smallest;

  __device__ ResidualOmissions(const Determinants<Source>& s, int n_used, bool is_few)
      : s(s), n_used(n_used), is_few(is_few), smallest(0) {
    double least = 0.0;
    bool found = false;
    for (int i = 0; i < s.ramp.n(); ++i) {
      if (!s.ramp.scratch.is_used(i)) continue;
      const double value = s.ramp.source.difference(i);
      if (found && !(value < least)) continue;
      least = value;
      smallest = i;
      found = true;
    }
  }

  __device__ double residual(int i) const {
    return s.ramp.scratch.at(DB, i) - s.B / s.C * s.ramp.scratch.at(DC, i);
  }
  __device__ double own(int i) const {
    const double dC = s.ramp.scratch.at(DC, i);
    return s.inverse(i) - dC * dC / s.C;
  }

  __device__ Omission one(int i) const {
    const double jump = residual(i) / own(i);
    bool may_go = s.ramp.scratch.is_used(i) && n_used >= 2 && !((is_few || n_used == 2) && i == smallest);
    may_go = may_go && (!is_few || jump > 0.0);
    return {may_go ? residual(i) * jump / s.scale : 0.0, s.rate() - jump * s.ramp.scratch.at(DC, i) / s.C};
  }

  __device__ Omission two(int i, const Omission&, const Omission&) const {
    const double dC1 = s.ramp.scratch.at(DC, i), dC2 = s.ramp.scratch.at(DC, i + 1);
    const double residual1 = residual(i), residual2 = residual(i + 1);
    const double own1 = own(i), own2 = own(i + 1);
    const double beside = s.beside(i) - dC1 * dC2 / s.C;
    double determinant = own1 * own2 - beside * beside;
    // A determinant that is 0 within rounding counts as 0.
    if (determinant < ROUNDING * own1 * own2) determinant = double_nan();
    const double jump1 = (residual1 * own2 - residual2 * beside) / determinant;
    const double jump2 = (residual2 * own1 - residual1 * beside) / determinant;
    double drop = (residual1 * jump1 + residual2 * jump2) / s.scale;
    const bool has_smallest = i == smallest || i + 1 == smallest;
    if (is_nan(drop) || (has_smallest && (is_few || n_used == 3))) drop = 0.0;
    if (is_few && !(jump1 > 0.0 && jump2 > 0.0)) drop = 0.0;
    return {drop, s.rate() - (jump1 * dC1 + jump2 * dC2) / s.C};
  }
};

// The larger one, or NaN if any is NaN.
__device__ inline double larger_or_nan(double best, double value) { return is_nan(best) || value <= best ? best : value; }

// Choose and reject once. Return whether any difference was rejected; `rate` becomes the rate without it.
template <class Omissions>
__device__ bool leave_out_worst(const Omissions& omissions, const Covariance& covariance, const Scratch& scratch,
                                double threshold_one, double threshold_two, bool pairs_need_gain, bool one_at_a_time,
                                double& rate) {
  const int n = covariance.n;
  double best_one = double_nan(), best_two = 0.0, best = 0.0;
  double rate_one = 0.0, rate_two = 0.0;
  bool tries_one = false, tries_two = false, hit_one = false, hit_two = false;
  // Two passes: first find the best choice, then mark the differences to reject. Omissions depend on the mask, so the marks
  // are in a row that is no longer needed.
  for (int pass = 0; pass < 2; ++pass) {
    Omission before{};
    for (int i = 0; i < n; ++i) {
      const Omission one = omissions.one(i);
      if (pass == 0) {
        best_one = i == 0 ? one.drop : larger_or_nan(best_one, one.drop);
      } else {
        const bool goes = tries_one && one.drop == best && !(one_at_a_time && hit_one);
        scratch.at(THETA_D, i) = goes ? 1.0 : 0.0;
        if (goes) rate_one += one.rate;
        hit_one = hit_one || goes;
      }
      if (i > 0) {
        const Omission two = omissions.two(i - 1, before, one);
        if (pass == 0) {
          // A product, so that NaN ends the search also where pairs are not tried.
          const double drop = two.drop * covariance.pair_is_spoiled(i - 1);
          best_two = i == 1 ? drop : larger_or_nan(best_two, drop);
        } else if (tries_two && two.drop == best && !(one_at_a_time && hit_two)) {
          rate_two += two.rate;
          hit_two = true;
          scratch.at(THETA_D, i - 1) = scratch.at(THETA_D, i) = 1.0;
        }
      }
      before = one;
    }
    if (pass == 1) break;
    const bool one_is_better = best_one - threshold_one > best_two - threshold_two;
    best = best_one * (best_one > threshold_one ? 1.0 : 0.0) * (one_is_better ? 1.0 : 0.0);
    best += best_two * (best_two > threshold_two ? 1.0 : 0.0) * (one_is_better ? 0.0 : 1.0);
    if (best == 0.0 || is_nan(best)) return false;
    tries_one = !pairs_need_gain || one_is_better;
    tries_two = !pairs_need_gain || !one_is_better;
  }
  for (int i = 0; i < n; ++i)
    if (scratch.at(THETA_D, i) > 0.0) scratch.leave_out(i);
  if (hit_one) rate = rate_one;
  if (hit_two) rate = rate_two;
  return hit_one || hit_two;
}

// Fit by determinants; also works for negative photon noise, from pixels without a valid gain.
template <class Source>
__device__ LikelihoodResult fit_odd(const Determinants<Source>& s) {
  const NoisyRamp<Source>& ramp = s.ramp;
  const Covariance& covariance = ramp.covariance;
  double squares[2] = {-0.0, -0.0};
  double products[2] = {-0.0, -0.0};
  double weight_before = 0.0;
  for (int i = 0; i < ramp.n(); ++i) {
    const double weight = ramp.scratch.at(DC, i) / s.C;
    const double square = weight * weight;
    squares[0] += square * (s.photons * covariance.row(1, i));
    squares[1] += square * (ramp.noise * covariance.row(2, i));
    if (i > 0) {
      const double product = weight * weight_before;
      products[0] += product * (s.photons * covariance.row(3, i - 1));
      products[1] += product * (ramp.noise * covariance.row(4, i - 1));
    }
    weight_before = weight;
  }
  return {s.rate(), sqrt(s.scale / s.C), s.chisq(), squares[0] + 2.0 * products[0], squares[1] + 2.0 * products[1]};
}

// Fit one ramp: guess the rate, reject differences while chi-square decreases by more than a threshold, and fit with the
// covariance for the resulting rate. The mask in the scratch memory then marks the differences of the fit.
//
// max_one_sided: with this many used differences or fewer, only upward jumps are rejected.
template <class Source>
__device__ LikelihoodResult fit_and_reject(const NoisyRamp<Source>& ramp, double threshold_one, double threshold_two,
                                           int max_one_sided, int rules) {
  double rate, photons = 0.0;
  bool searches = false, is_odd = false;
  if (rules & REJECT_JUMPS) {
    photons = guess_rate(ramp, (rules & GUESS_FROM_USED) != 0) / ramp.gain;
    const ChiSquare sums = eliminate<false>(ramp, photons);
    rate = sums.B / sums.C;
    is_odd = is_odd_noise(photons, ramp.noise);
    // No rejection can decrease chi-square by more than its value.
    const double least = smaller(threshold_one, threshold_two) * (1.0 - MARGIN);
    searches = ramp.n() > 1 && (sums.A - sums.B * rate > least || is_odd);
  } else {
    rate = mean_rate(ramp);
  }
  for (int search = 0;; ++search) {
    if (!searches) {
      photons = (rate * (rate > 0.0 ? 1.0 : 0.0) + ramp.dark) / ramp.gain;
      if (!is_odd_noise(photons, ramp.noise)) return fit_proper(ramp, photons);
    }
    const Determinants<Source> solution(ramp, photons, rules);
    if (!searches) return fit_odd(solution);
    if (search == 0 && is_odd) rate = solution.rate();
    const int n_used = ramp.scratch.count();
    const bool is_few = n_used <= max_one_sided;
    const bool pairs_need_gain = (rules & PAIRS_NEED_GAIN) || is_few;
    bool hit;
    if ((rules & SETTLES_TIES) || is_few)
      hit = leave_out_worst(ResidualOmissions<Source>(solution, n_used, is_few), ramp.covariance, ramp.scratch,
                            threshold_one, threshold_two, pairs_need_gain, true, rate);
    else
      hit = leave_out_worst(PublishedOmissions<Source>{solution}, ramp.covariance, ramp.scratch, threshold_one,
                            threshold_two, pairs_need_gain, false, rate);
    const int n_left = ramp.scratch.count();
    searches = hit && search + 1 < ramp.n() && (n_left > TOO_FEW_TO_SEARCH || (n_left > 1 && n_left <= max_one_sided));
  }
}

}  // namespace gpucoron
