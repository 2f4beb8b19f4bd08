"""The n-th root of numbers, with the same bits on every CPU and, in ``kernels/include/root.cuh``, on every GPU.

The last bit of a power depends on the library and the CPU, and rejected differences may depend on that bit. If NumPy's
power has these bits on this CPU, it is used.

``x ** (1 / n)`` is ``2 ** (log2(x) / n)``. With ``x = m 2**e`` and ``r = k / 32`` near ``1 / m``, ``log2(x)`` is
``e - log2(r) + log2(m r)``; then ``2 ** p`` is ``2 ** floor(p)`` times a power of ``2 ** (1/16)`` from a table, times 2
to the remainder. Large terms are sums of two numbers. IEEE 754 defines the result of each operation: sums, products,
and fused products and sums.

Source: tables, coefficients and order of operations are those of ``pow`` in Intel's SVML for AVX-512 (part of NumPy,
BSD license), which NumPy uses on CPUs with AVX-512; stcal's roots have these bits there. The fused product and sum:
Boldo & Melquiond 2008, IEEE Trans. Comput. 57, 462.
"""

from functools import cache

import numpy as np


def _read(numbers):
    return np.array([float.fromhex(number) for number in numbers.split()])


#: lower limits of m for k = 63, 62, ...; below the first one k is 64
NEXT_RECIPROCAL = _read(
    """
    0x1.0206p-1 0x1.0627p-1 0x1.0a6ap-1 0x1.0edp-1 0x1.135dp-1 0x1.180fp-1 0x1.1cf2p-1 0x1.21fdp-1 0x1.2736p-1
    0x1.2c9fp-1 0x1.324p-1 0x1.3812p-1 0x1.3e25p-1 0x1.446ep-1 0x1.4afep-1 0x1.51d2p-1 0x1.58efp-1 0x1.6057p-1
    0x1.6817p-1 0x1.702dp-1 0x1.78a5p-1 0x1.8182p-1 0x1.8acdp-1 0x1.948ap-1 0x1.9ecbp-1 0x1.a98fp-1 0x1.b4e9p-1
    0x1.c0ep-1 0x1.cd88p-1 0x1.dae6p-1 0x1.e915p-1 0x1.f823p-1
    """
)
#: -log2(k / 32), plus 1 from k = 48 on, as a sum of two numbers, by k modulo 32
LOG_HIGH = _read(
    """
    0x0p0 -0x1.6bad3758ep-5 -0x1.663f6fac9p-4 -0x1.08c588cda8p-3 -0x1.5c01a39fcp-3 -0x1.acf5e2db5p-3
    -0x1.fbc16b9028p-3 -0x1.24407ab0ep-2 -0x1.49a784bcdp-2 -0x1.6e221cd9dp-2 -0x1.91bba891fp-2
    -0x1.b47ebf7388p-2 -0x1.d6753e033p-2 -0x1.f7a8568cbp-2 -0x1.0c10500d64p-1 -0x1.1bf311e95ep-1
    0x1.a8ff97181p-2 0x1.8a8980abfcp-2 0x1.6cb0f6865cp-2 0x1.4f6fbb2cecp-2 0x1.32bfee371p-2 0x1.169c05364p-2
    0x1.f5fd8a906p-3 0x1.bfc67a8p-3 0x1.8a8980abf8p-3 0x1.563dc29ff8p-3 0x1.22dadc2abp-3 0x1.e0b1ae8f3p-4
    0x1.7d60496dp-4 0x1.1bb32a6p-4 0x1.77394c9dap-5 0x1.743ee862p-6
    """
)
LOG_LOW = _read(
    """
    0x0p0 -0x1.fb0e626c0de13p-42 -0x1.3167ccc538261p-44 0x1.871a7610e40bdp-45 0x1.4bc302ffa76fbp-42
    0x1.36c101ee1344p-43 0x1.7f5dc57266758p-43 -0x1.ce60916e52e91p-44 -0x1.b8afe492bf6ffp-42
    -0x1.9bcaf1aa4168ap-43 -0x1.708b4b2b5056cp-42 -0x1.50520a377c7ecp-45 0x1.5f101c141e67p-42
    -0x1.b3b3864c60011p-44 0x1.5669df6a2b592p-43 0x1.fe43895d8ac46p-42 0x1.4bc302ffa76fbp-43
    -0x1.66cccab240e9p-45 0x1.1d406db502403p-43 0x1.661e393a16b95p-44 -0x1.1979a5db68722p-42
    -0x1.d4f1b95e0ff45p-43 0x1.f1a4847f7b278p-42 -0x1.667f21fa8423fp-44 0x1.e9933354dbf17p-42
    0x1.6590643906f2ap-42 0x1.a4b69691d7994p-42 -0x1.54cda62d3926ep-47 -0x1.12ce6312ebb82p-42
    0x1.52743318a8a57p-42 -0x1.4e55443478fep-42 -0x1.95539356f93dcp-43
    """
)
#: 2 ** (j / 16), and its relative rounding error
SIXTEENTHS = _read(
    """
    0x1p0 0x1.0b5586cf9890fp0 0x1.172b83c7d517bp0 0x1.2387a6e756238p0 0x1.306fe0a31b715p0 0x1.3dea64c123422p0
    0x1.4bfdad5362a27p0 0x1.5ab07dd485429p0 0x1.6a09e667f3bcdp0 0x1.7a11473eb0187p0 0x1.8ace5422aa0dbp0
    0x1.9c49182a3f09p0 0x1.ae89f995ad3adp0 0x1.c199bdd85529cp0 0x1.d5818dcfba487p0 0x1.ea4afa2a490dap0
    """
)
SIXTEENTHS_REST = _read(
    """
    0x0p0 0x1.79aa65d837b6dp-54 -0x1.01b15eaa59348p-55 0x1.68efde3a8a894p-54 0x1.34d754db0abb6p-55
    0x1.59f48a72a4c6dp-55 0x1.690cebb7aafbp-56 0x1.063e1e21c5409p-54 -0x1.3b3efbf5e2228p-54
    -0x1.b32dcb94da51dp-56 0x1.db72fc1f0eab4p-55 0x1.1affc2b91ce27p-56 0x1.c1a7792cb3387p-55
    0x1.36eae30af0cb3p-56 0x1.4a385a63d07a7p-56 -0x1.ff7128fd391fp-55
    """
)
#: coefficients of the series of log2(1 + 2 h) after its first two terms, in pairs from the highest powers
LOG_SERIES = _read(
    """
    -0x1.27a394386376fp+7 0x1.4873cf87141d1p+6 -0x1.715473528efc1p+5 0x1.a617607e55815p+4
    -0x1.ec709dc3b71a1p+3 0x1.2776c50effbdep+3 -0x1.71547652b82fcp+2 0x1.ec709dc3a03fdp+1
    -0x1.778d9c7190437p-55 0x1.777df70b75d1p-55
    """
)
#: 2 / ln(2)
PER_HALF = float.fromhex("0x1.71547652b82fep+1")
#: coefficients of the series of (2 ** f - 1) / f, from the highest power
POWER_SERIES = _read(
    """
    0x1.4a1d7f58c2d59p-13 0x1.5d7472783d279p-10 0x1.3b2ad1b14ebaap-7 0x1.c6b08d4ad8eb9p-5
    0x1.ebfbdff84554dp-3 0x1.62e42fefa398bp-1
    """
)
#: smaller numbers are subnormal
NORMAL = 2.0**-1022
#: factor of Veltkamp's splitting into an upper and a lower half
HALVES = 2.0**27 + 1


def root(numbers, n):
    """Return the n-th root.

    Parameters
    ----------
    numbers : (...) float64
        The root of a negative number is NaN.
    n : int
        2 or more.

    Returns
    -------
    (...) float64
    """
    if n == 2:
        return np.sqrt(numbers)
    if not numpy_has_these_bits():
        return compute_root(numbers, n)
    roots = numbers ** (1 / n)
    subnormal = (numbers > 0) & (numbers < NORMAL)
    if subnormal.any():
        roots[subnormal] = compute_root(numbers[subnormal], n)
    return roots


@cache
def numpy_has_these_bits():
    """Return whether NumPy's power equals `compute_root` on this CPU, for thousands of numbers, also difficult ones."""
    near_edges = 1 + np.ldexp(np.arange(-20.0, 21), -15)
    edges = np.ldexp(np.multiply.outer(near_edges, NEXT_RECIPROCAL), np.arange(4)[:, None, None])
    below_one = 1 - np.ldexp(np.arange(1.0, 1000), -11)
    others = np.exp2(np.random.default_rng(0).uniform(-100, 100, 1000))
    numbers = np.concatenate([edges.ravel(), below_one, others])
    return all(np.array_equal(numbers ** (1 / n), compute_root(numbers, n)) for n in (3, 10))


def compute_root(numbers, n):
    """Return the n-th root for n from 3 on, by sums and products only; as `root`."""
    numbers = np.asarray(numbers, np.float64)
    is_plain = (numbers > 0) & np.isfinite(numbers)
    # frexp returns m in [1/2, 1) with full precision, also for subnormal numbers.
    m, exponent = np.frexp(np.where(is_plain, numbers, 1.0))
    with np.errstate(all="ignore"):
        roots = _exponentiate(*_divide(*_take_logarithm(m, exponent), 1 / n))
        others = np.where(numbers == 0, 0.0, np.where(np.isinf(numbers), np.inf, np.nan))
    return np.where(is_plain, roots, others)


def _take_logarithm(m, exponent):
    """Return log2(m) + exponent as a sum of two numbers."""
    k = 64 - np.searchsorted(NEXT_RECIPROCAL, m, side="right")
    h = _multiply_add(0.5 * m, k / 32, -0.5)
    hh = h * h
    pairs = [_multiply_add(one, h, other) for one, other in LOG_SERIES.reshape(-1, 2)]
    last = _multiply_add(hh, pairs[0], pairs[1])
    series = _multiply_add(hh, pairs[2], pairs[3])
    series = _multiply_add(hh * hh, last, series)
    series = _multiply_add(hh, series, pairs[4])
    series = _multiply_add(h, series, LOG_LOW[k % 32])
    start = LOG_HIGH[k % 32] + (exponent - (k >= 48))
    linear = _multiply_add(h, PER_HALF, start)
    step = linear - start
    square = _multiply_add(-h, step, linear)
    of_linear = _multiply_add(h, PER_HALF, -step)
    others = series + (_multiply_add(-of_linear, h, of_linear) - _multiply_add(step, h, -(linear - square)))
    high = square + others
    return high, others - (high - square)


def _divide(high, low, y):
    """Return (high + low) y as a number rounded toward zero, and the rest."""
    nearest = high * y
    rest = _rest_of_product(high, y, nearest)
    of_high = _chop(nearest, rest)
    left = (nearest - of_high) + rest
    product = low * y
    both = product + left
    added = _multiply_add(low, y, left)
    beyond = ((both - added) + _rest_of_sum(product, left, both)) + _rest_of_product(low, y, product)
    of_low = _chop(added, beyond)
    total = of_high + of_low
    power = _chop(total, _rest_of_sum(of_high, of_low, total))
    return power, of_low - (power - of_high)


def _exponentiate(power, rest):
    """Return 2 ** (power + rest)."""
    sixteenths = np.floor(16 * power)
    below = sixteenths / -16
    above = power + below
    f = _chop(above, _rest_of_sum(power, below, above)) + rest
    ff = f * f
    pairs = [_multiply_add(one, f, other) for one, other in POWER_SERIES.reshape(-1, 2)]
    growth = _multiply_add(ff, _multiply_add(ff, pairs[0], pairs[1]), pairs[2])
    sixteenths = sixteenths.astype(np.int64)
    j = sixteenths & 15
    root = _multiply_add(SIXTEENTHS[j], _multiply_add(f, growth, SIXTEENTHS_REST[j]), SIXTEENTHS[j])
    return np.ldexp(root, sixteenths >> 4)


def _chop(value, rest):
    """Round toward zero a number whose nearest double is ``value``; the exact number is ``value + rest``."""
    beyond = (value != 0) & (rest != 0) & ((value > 0) != (rest > 0))
    return (value.view(np.int64) - beyond).view(np.float64)


def _rest_of_sum(a, b, total):
    """Return the rounding error of a sum."""
    of_b = total - a
    return (a - (total - of_b)) + (b - of_b)


def _rest_of_product(a, b, product):
    """Return the rounding error of a product."""
    (a_high, a_low), (b_high, b_low) = _halve(a), _halve(b)
    return a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _halve(number):
    wide = HALVES * number
    high = wide - (wide - number)
    return high, number - high


def _multiply_add(a, b, c):
    """Compute ``a * b + c``, rounded once."""
    product = a * b
    rest = _rest_of_product(a, b, product)
    with_rest = c + rest
    total = product + with_rest
    left, more = _rest_of_sum(c, rest, with_rest), _rest_of_sum(product, with_rest, total)
    # Round the small terms to odd, so that the final sum is rounded only once.
    small = np.asarray(left + more)
    lost = _rest_of_sum(left, more, small)
    bits = small.view(np.int64)
    is_even = (lost != 0) & (bits & 1 == 0)
    bits = bits + np.where(is_even, np.where((lost > 0) == (small > 0), 1, -1), 0)
    return total + bits.view(np.float64)
