"""EMI correction in NumPy: sums by phase of the wave, the fit of the known wave to them, and its subtraction.

`gpucoron.backends.operations.emicorr` defines the wave. The order of all sums is fixed, so results do not depend on
tiles or threads.
"""

import numpy as np

from gpucoron.backends.blas import one_blas_thread
from gpucoron.backends.tiles import TILE_BYTES, for_each_tile

#: bins whose products are summed together, and groups for which the wave is evaluated together
_BINS_AT_ONCE, _GROUPS_AT_ONCE = 8, 128
#: products of one matrix multiplication: so few that BLAS uses one thread even where nothing limits it
_PRODUCTS_AT_ONCE = 2**18
#: quads, of one frame and in total, for which the wave is evaluated together
_QUADS_OF_FRAME, _QUADS_AT_ONCE = 2**14, 2**16


def measure_scatter(device, data):
    """Return the standard deviation over the groups of each ramp, in float32, summed group by group (as numpy.std).

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN

    Returns
    -------
    (nints, ny, nx) float32, DN
        NaN where a group is NaN or infinite.
    """
    nints, ngroups, ny, nx = data.shape
    scatter = np.empty((nints, ny, nx), np.float32)

    def measure(rows):
        residual = np.empty((ngroups, rows.stop - rows.start, nx), np.float32)
        for integration in range(nints):
            tile, out = data[integration, :, rows], scatter[integration, rows]
            # The sum is made group by group, as by numpy.std in jwst.
            np.add.reduce(tile, axis=0, out=out)
            np.divide(out, np.float32(ngroups), out=out)
            np.subtract(tile, out, out=residual)
            np.multiply(residual, residual, out=residual)
            np.add.reduce(residual, axis=0, out=out)
            np.divide(out, np.float32(ngroups), out=out)
            np.sqrt(out, out=out)

    for_each_tile(measure, (ngroups, ny, nx), device.n_threads)
    return scatter


def sum_by_phase(device, data, good, bins, n_bins):
    """Sum the good pixels of each frame in bins of the phase at which they are read.

    In float64: ``(p0 + p1) + (p2 + p3)`` within a quad, then quad by quad.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
        Finite.
    good : (nints, ny, nx) bool
        True for pixels to include.
    bins : (ny, nx / 4) int32
        Bin of each quad's phase in the first group, negative for quads to exclude. On the host.
    n_bins : int

    Returns
    -------
    sums : (nints, ngroups, n_bins) float64, DN
    counts : (nints, n_bins) float64
        Number of pixels in each sum.
    """
    nints, ngroups, ny, nx = data.shape
    n_quads = bins.size
    # Excluded quads go into an extra bin, which is dropped.
    where = np.where(bins < 0, n_bins, bins).ravel().astype(np.intp)
    sums, counts = np.empty((nints, ngroups, n_bins)), np.empty((nints, n_bins))
    weights = good.reshape(nints, ny * nx).astype(np.float32)
    frames, frame_sums = data.reshape(nints * ngroups, ny * nx), sums.reshape(nints * ngroups, n_bins)
    for integration in range(nints):
        of_quads = weights[integration].reshape(n_quads, 4).sum(axis=1)
        counts[integration] = np.bincount(where, of_quads, n_bins + 1)[:n_bins]

    def add(numbers):
        counted, pairs, quads = np.empty(ny * nx, np.float32), np.empty((2, n_quads)), np.empty(n_quads)
        for number in range(numbers.start, numbers.stop):
            np.multiply(frames[number], weights[number // ngroups], out=counted)
            np.add(counted[0::4], counted[1::4], out=pairs[0], dtype=np.float64)
            np.add(counted[2::4], counted[3::4], out=pairs[1], dtype=np.float64)
            np.add(pairs[0], pairs[1], out=quads)
            frame_sums[number] = np.bincount(where, quads, n_bins + 1)[:n_bins]

    for_each_tile(add, frames.shape, device.n_threads)
    return sums, counts


def match_emicorr(device, sums, counts, wave, group_phases, n_trials):
    """Compute how chi-square depends on the wave's amplitude, at each trial phase ``k / n_trials``.

    A straight line and ``c`` times the wave are fitted to the ramp of each bin. With the best lines, chi-square minus
    its value at c = 0 is ``A c^2 + B c``, with sums over bins p (of n pixels) and groups g = 0, 1, ...,

        A = sum_p n / D (-S_tt S_z^2 + 2 S_t S_z S_tz - G S_tz^2 + D S_zz)
        B = 2 sum_p ((S_tt S_z S_y - S_t S_tz S_y - S_t S_z S_ty + G S_tz S_ty) / D - S_yz)

    where the S are sums over the G groups, t = g, D = G S_tt - S_t^2, y are the bin's sums and z is the wave at
    ``((p + 1/2) / n_bins + d_g) mod 1 + k / n_trials``. The order of sums differs between devices, so their results
    differ by float64 rounding; it does not depend on the number of threads.

    Parameters
    ----------
    device : Device
    sums, counts
        From `sum_by_phase`.
    wave : (4, n_bins + 1) float64
        On the host.
    group_phases : (ngroups,) float64
        d_g, on the host.
    n_trials : int

    Returns
    -------
    quadratic, linear : (nints, n_trials) float64
        A and B; on the host.
    """
    nints, ngroups, n_bins = sums.shape
    phases = bin_phases(n_bins, group_phases)
    trials = np.arange(n_trials) / n_trials
    times = np.arange(ngroups, dtype=np.float64)
    s_t, s_tt, delta = time_sums(ngroups)
    s_y, s_ty = sums.sum(axis=1), (sums * times[:, None]).sum(axis=1)

    def match(bins):
        some = range(bins.start, bins.stop)
        of_z = np.zeros((len(some), 3, n_trials))
        s_yz = np.zeros((nints, n_trials))
        shape = (min(ngroups, _GROUPS_AT_ONCE), n_trials)
        arrays = np.empty(shape), np.empty(shape), np.empty(shape, np.intp), np.empty(shape)
        for n, p in enumerate(some):
            for start in range(0, ngroups, _GROUPS_AT_ONCE):
                part = slice(start, start + _GROUPS_AT_ONCE)
                x, z, m, scratch = (array[: len(times[part])] for array in arrays)
                np.add(phases[part, p, None], trials, out=x)
                evaluate(wave, x, z, m, scratch)
                # One matrix product: with 1, with t and with the data of each integration.
                rows = np.concatenate([np.ones((1, len(z))), times[None, part], sums[:, part, p]])
                products = _multiply(rows, z)
                of_z[n, :2] += products[:2]
                s_yz += products[2:]
                of_z[n, 2] += np.multiply(z, z, out=scratch).sum(axis=0)
        s_z, s_tz, s_zz = of_z.swapaxes(0, 1)
        squared = (-s_tt * s_z * s_z + 2 * s_t * s_z * s_tz - ngroups * s_tz * s_tz + s_zz * delta) / delta
        with_y, with_ty = (s_tt * s_z - s_t * s_tz) / delta, (ngroups * s_tz - s_t * s_z) / delta
        mixed = _multiply(s_y[:, bins], with_y) + _multiply(s_ty[:, bins], with_ty) - s_yz
        return _multiply(counts[:, bins], squared), 2 * mixed

    with one_blas_thread():
        parts = for_each_tile(match, (n_bins, 1), device.n_threads, tile_bytes=4 * _BINS_AT_ONCE)
    return tuple(sum(terms) for terms in zip(*parts, strict=True))


def _multiply(a, b):
    """Multiply matrices in small pieces; the order of the sums must not depend on the threads of BLAS."""
    product = np.empty((a.shape[0], b.shape[1]))
    width = max(1, _PRODUCTS_AT_ONCE // a.size)
    for start in range(0, b.shape[1], width):
        columns = slice(start, start + width)
        np.matmul(a, b[:, columns], out=product[:, columns])
    return product


def subtract_emicorr(device, data, wave, pixel_phases, group_phases, integration_phases, amplitudes):
    """Subtract ``a_i wave((x + d_g + e_i) mod 1)`` from every sample, in place; float64, then rounded to float32.

    All but ``data`` are on the host.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
        C-contiguous.
    wave : (4, n_bins + 1) float64, DN
    pixel_phases : (ny, nx / 4) float64
        x, each quad's phase in the first group.
    group_phases : (ngroups,) float64
        d_g.
    integration_phases, amplitudes : (nints,) float64
        e_i and a_i.
    """
    nints, ngroups, ny, nx = data.shape
    quads = data.reshape(nints * ngroups, ny * nx // 4, 4)
    flat_phases = pixel_phases.ravel()

    def subtract(numbers):
        some = np.arange(numbers.start, numbers.stop)
        for first in range(0, flat_phases.size, _QUADS_OF_FRAME):
            phases = flat_phases[first : first + _QUADS_OF_FRAME]
            n_frames = max(1, min(len(some), _QUADS_AT_ONCE // phases.size))
            shape = (n_frames, phases.size)
            arrays = np.empty(shape), np.empty(shape), np.empty(shape, np.intp), np.empty(shape), np.empty((*shape, 4))
            for start in range(0, len(some), n_frames):
                integrations, groups = divmod(some[start : start + n_frames, None], ngroups)
                x, z, m, scratch, wide = (array[: len(groups)] for array in arrays)
                np.add(phases, group_phases[groups], out=x)
                np.add(x, integration_phases[integrations], out=x)
                evaluate(wave, x, z, m, scratch)
                np.multiply(z, amplitudes[integrations], out=z)
                for output in range(4):
                    wide[..., output] = z
                samples = quads[some[start] : some[start] + len(groups), first : first + phases.size]
                np.subtract(samples, wide, out=samples, casting="same_kind")

    for_each_tile(subtract, (len(quads), flat_phases.size * 4), device.n_threads, tile_bytes=8 * TILE_BYTES)


def evaluate(wave, x, z, m, scratch):
    """Evaluate a wave at phases, which are reduced to [0, 1) in place.

    Parameters
    ----------
    wave : (4, n_pieces) float64
        As in `gpucoron.backends.operations.emicorr`.
    x : (...) float64
        Phases; on return the positions within the pieces.
    z : (...) float64
        Filled with the wave's values.
    m : (...) intp
    scratch : (...) float64
        Both overwritten.
    """
    np.floor(x, out=scratch)
    np.subtract(x, scratch, out=x)
    np.multiply(x, wave.shape[1] - 1, out=x)
    np.add(x, 0.5, out=x)
    np.floor(x, out=scratch)
    np.copyto(m, scratch, casting="unsafe")
    np.subtract(x, scratch, out=x)
    np.take(wave[3], m, out=z, mode="clip")
    for coefficients in wave[2::-1]:
        np.multiply(z, x, out=z)
        np.take(coefficients, m, out=scratch, mode="clip")
        np.add(z, scratch, out=z)


def bin_phases(n_bins, group_phases):
    """Return the phase of the middle of each bin in each group: (ngroups, n_bins) float64 in [0, 1)."""
    return ((np.arange(1, n_bins + 1) - 0.5) / n_bins + group_phases[:, None]) % 1


def time_sums(ngroups):
    """Return the sums of the group numbers and of their squares, and the determinant of a straight-line fit."""
    times = np.arange(ngroups)
    s_t, s_tt = float(times.sum()), float((times**2).sum())
    return s_t, s_tt, ngroups * s_tt - s_t**2
