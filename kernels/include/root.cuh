// The n-th root of a number, with the same bits on every device, as in operations/likelihood/roots.py.
//
// The last bit of pow() depends on the library and the CPU, and rejected differences may depend on that bit. This function
// uses only additions, products and explicit fused multiply-adds, whose results IEEE 754 defines.
//
// x^(1/n) = 2^(log2(x) / n). With x = m 2^e and r = k / 32 near 1 / m, log2(x) = e - log2(r) + log2(1 + R) and R = m r - 1;
// then 2^p = 2^floor(p) T 2^f with T from a table and 0 <= f < 1/16. The large part of log2(x) is a sum of two numbers.
//
// Source: tables, coefficients and order of operations are those of pow() in Intel's SVML for AVX-512 (in NumPy, BSD
// license), which NumPy uses on CPUs with AVX-512; stcal's roots have these bits there.
#pragma once

#include "types.cuh"

namespace gpucoron {

// Lower limits of m for k = 63, 62, ...; below the first one k is 64.
__device__ constexpr double NEXT_RECIPROCAL[32] = {
    0x1.0206p-1, 0x1.0627p-1, 0x1.0a6ap-1, 0x1.0edp-1,  0x1.135dp-1, 0x1.180fp-1, 0x1.1cf2p-1, 0x1.21fdp-1,
    0x1.2736p-1, 0x1.2c9fp-1, 0x1.324p-1,  0x1.3812p-1, 0x1.3e25p-1, 0x1.446ep-1, 0x1.4afep-1, 0x1.51d2p-1,
    0x1.58efp-1, 0x1.6057p-1, 0x1.6817p-1, 0x1.702dp-1, 0x1.78a5p-1, 0x1.8182p-1, 0x1.8acdp-1, 0x1.948ap-1,
    0x1.9ecbp-1, 0x1.a98fp-1, 0x1.b4e9p-1, 0x1.c0ep-1,  0x1.cd88p-1, 0x1.dae6p-1, 0x1.e915p-1, 0x1.f823p-1,
};
// -log2(k / 32), plus 1 from k = 48 on, as a sum of two numbers, by k modulo 32.
__device__ constexpr double LOG_HIGH[32] = {
    0.0, -0x1.6bad3758ep-5, -0x1.663f6fac9p-4, -0x1.08c588cda8p-3,
    -0x1.5c01a39fcp-3, -0x1.acf5e2db5p-3, -0x1.fbc16b9028p-3, -0x1.24407ab0ep-2,
    -0x1.49a784bcdp-2, -0x1.6e221cd9dp-2, -0x1.91bba891fp-2, -0x1.b47ebf7388p-2,
    -0x1.d6753e033p-2, -0x1.f7a8568cbp-2, -0x1.0c10500d64p-1, -0x1.1bf311e95ep-1,
    0x1.a8ff97181p-2, 0x1.8a8980abfcp-2, 0x1.6cb0f6865cp-2, 0x1.4f6fbb2cecp-2,
    0x1.32bfee371p-2, 0x1.169c05364p-2, 0x1.f5fd8a906p-3, 0x1.bfc67a8p-3,
    0x1.8a8980abf8p-3, 0x1.563dc29ff8p-3, 0x1.22dadc2abp-3, 0x1.e0b1ae8f3p-4,
    0x1.7d60496dp-4, 0x1.1bb32a6p-4, 0x1.77394c9dap-5, 0x1.743ee862p-6,
};
__device__ constexpr double LOG_LOW[32] = {
    0.0, -0x1.fb0e626c0de13p-42, -0x1.3167ccc538261p-44, 0x1.871a7610e40bdp-45,
    0x1.4bc302ffa76fbp-42, 0x1.36c101ee1344p-43, 0x1.7f5dc57266758p-43, -0x1.ce60916e52e91p-44,
    -0x1.b8afe492bf6ffp-42, -0x1.9bcaf1aa4168ap-43, -0x1.708b4b2b5056cp-42, -0x1.50520a377c7ecp-45,
    0x1.5f101c141e67p-42, -0x1.b3b3864c60011p-44, 0x1.5669df6a2b592p-43, 0x1.fe43895d8ac46p-42,
    0x1.4bc302ffa76fbp-43, -0x1.66cccab240e9p-45, 0x1.1d406db502403p-43, 0x1.661e393a16b95p-44,
    -0x1.1979a5db68722p-42, -0x1.d4f1b95e0ff45p-43, 0x1.f1a4847f7b278p-42, -0x1.667f21fa8423fp-44,
    0x1.e9933354dbf17p-42, 0x1.6590643906f2ap-42, 0x1.a4b69691d7994p-42, -0x1.54cda62d3926ep-47,
    -0x1.12ce6312ebb82p-42, 0x1.52743318a8a57p-42, -0x1.4e55443478fep-42, -0x1.95539356f93dcp-43,
};
// 2^(j / 16), and its relative rounding error.
__device__ constexpr double SIXTEENTHS[16] = {
    0x1p0, 0x1.0b5586cf9890fp0, 0x1.172b83c7d517bp0, 0x1.2387a6e756238p0,
    0x1.306fe0a31b715p0, 0x1.3dea64c123422p0, 0x1.4bfdad5362a27p0, 0x1.5ab07dd485429p0,
    0x1.6a09e667f3bcdp0, 0x1.7a11473eb0187p0, 0x1.8ace5422aa0dbp0, 0x1.9c49182a3f09p0,
    0x1.ae89f995ad3adp0, 0x1.c199bdd85529cp0, 0x1.d5818dcfba487p0, 0x1.ea4afa2a490dap0,
};
__device__ constexpr double SIXTEENTHS_REST[16] = {
    0.0, 0x1.79aa65d837b6dp-54, -0x1.01b15eaa59348p-55, 0x1.68efde3a8a894p-54,
    0x1.34d754db0abb6p-55, 0x1.59f48a72a4c6dp-55, 0x1.690cebb7aafbp-56, 0x1.063e1e21c5409p-54,
    -0x1.3b3efbf5e2228p-54, -0x1.b32dcb94da51dp-56, 0x1.db72fc1f0eab4p-55, 0x1.1affc2b91ce27p-56,
    0x1.c1a7792cb3387p-55, 0x1.36eae30af0cb3p-56, 0x1.4a385a63d07a7p-56, -0x1.ff7128fd391fp-55,
};
// 2 / ln(2).
__device__ constexpr double PER_HALF = 0x1.71547652b82fep+1;

// Round toward zero a number whose nearest double is `value`; the exact number is value + rest.
__device__ inline double chopped(double value, double rest) {
  const bool is_beyond = (value > 0.0 && rest < 0.0) || (value < 0.0 && rest > 0.0);
  return is_beyond ? __longlong_as_double(__double_as_longlong(value) - 1) : value;
}

// The rounding error of a sum.
__device__ inline double rest_of_sum(double a, double b, double sum) {
  const double of_b = sum - a;
  return (a - (sum - of_b)) + (b - of_b);
}

// NaN of negative numbers; n is 2 or more.
__device__ inline double root_of(double x, int n) {
  if (n == 2) return sqrt(x);
  if (x == 0.0) return 0.0;
  if (!is_finite(x)) return x < 0.0 ? -x : x;
  if (x < 0.0) return double_nan();
  int exponent = -1022;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    exponent -= 54;
  }
  const int64 bits = __double_as_longlong(x);
  exponent += int(bits >> 52);
  const double m = __longlong_as_double((bits & 0xfffffffffffffll) | 0x3fe0000000000000ll);

  int number = 64 - int(32.0 / m + 0.5);
  if (number < 32 && m >= NEXT_RECIPROCAL[number]) ++number;
  if (number > 0 && m < NEXT_RECIPROCAL[number - 1]) --number;
  const int k = 64 - number;

  // log2(x) = high + low, with h = (m r - 1) / 2
  const double h = fma(0.5 * m, k / 32.0, -0.5), hh = h * h;
  const double last = fma(hh, fma(-0x1.27a394386376fp+7, h, 0x1.4873cf87141d1p+6),
                          fma(-0x1.715473528efc1p+5, h, 0x1.a617607e55815p+4));
  double series = fma(hh, fma(-0x1.ec709dc3b71a1p+3, h, 0x1.2776c50effbdep+3),
                      fma(-0x1.71547652b82fcp+2, h, 0x1.ec709dc3a03fdp+1));
  series = fma(hh * hh, last, series);
  series = fma(hh, series, fma(-0x1.778d9c7190437p-55, h, 0x1.777df70b75d1p-55));
  series = fma(h, series, LOG_LOW[k % 32]);
  const double start = LOG_HIGH[k % 32] + (k < 48 ? exponent : exponent - 1);
  const double linear = fma(PER_HALF, h, start);
  const double step = linear - start;
  const double square = fma(-h, step, linear);
  const double of_linear = fma(h, PER_HALF, -step);
  const double others = series + (fma(-of_linear, h, of_linear) - fma(step, h, -(linear - square)));
  const double high = square + others;
  const double low = others - (high - square);

  // log2(x) / n = power + rest
  const double y = 1.0 / n, nearest = high * y;
  const double of_high = chopped(nearest, fma(high, y, -nearest));
  const double left = fma(high, y, -of_high);
  const double product = low * y, both = product + left, added = fma(low, y, left);
  const double beyond = ((both - added) + rest_of_sum(product, left, both)) + fma(low, y, -product);
  const double of_low = chopped(added, beyond);
  const double sum = of_high + of_low;
  const double power = chopped(sum, rest_of_sum(of_high, of_low, sum));
  const double rest = of_low - (power - of_high);

  int sixteenths = int(16.0 * power);
  if (16.0 * power < sixteenths) --sixteenths;
  const double below = sixteenths / -16.0, above = power + below;
  const double f = chopped(above, rest_of_sum(power, below, above)) + rest, ff = f * f;
  double growth = fma(0x1.4a1d7f58c2d59p-13, f, 0x1.5d7472783d279p-10);
  growth = fma(ff, growth, fma(0x1.3b2ad1b14ebaap-7, f, 0x1.c6b08d4ad8eb9p-5));
  growth = fma(ff, growth, fma(0x1.ebfbdff84554dp-3, f, 0x1.62e42fefa398bp-1));
  const int j = sixteenths & 15;
  const double root = fma(SIXTEENTHS[j], fma(f, growth, SIXTEENTHS_REST[j]), SIXTEENTHS[j]);
  return root * __longlong_as_double(int64((sixteenths >> 4) + 1023) << 52);
}

}  // namespace gpucoron
