"""Periodic interference in NumPy: sums over the wave's phase, the fit of a known wave to them, its subtraction.

The definition of what `gpucoron.backends.interference` promises. Sums are made in the order that is written there, so
that neither tiles nor threads show in a bit.
"""

import numpy as np

from gpucoron.backends.numpy_ops.tiles import for_each_tile

#: trial phases that are fitted together: their waves over all bins stay in the cache
_TRIALS_AT_ONCE = 20
#: likewise integrations
_INTEGRATIONS_AT_ONCE = 16
#: quadruples of pixels for which the wave is worked out together
_QUADS_AT_ONCE = 2**14


def measure_scatter(data, *, n_threads=1):
    """Measure each ramp's standard deviation; see `gpucoron.backends.interference`."""
    nints, ngroups, ny, nx = data.shape
    scatter = np.empty((nints, ny, nx), np.float32)

    def measure(rows):
        residual = np.empty((ngroups, rows.stop - rows.start, nx), np.float32)
        for integration in range(nints):
            tile, out = data[integration, :, rows], scatter[integration, rows]
            # The groups one after the other: as numpy.std, which jwst asks, sums along this axis.
            np.add.reduce(tile, axis=0, out=out)
            np.divide(out, np.float32(ngroups), out=out)
            np.subtract(tile, out, out=residual)
            np.multiply(residual, residual, out=residual)
            np.add.reduce(residual, axis=0, out=out)
            np.divide(out, np.float32(ngroups), out=out)
            np.sqrt(out, out=out)

    for_each_tile(measure, (ngroups, ny, nx), n_threads)
    return scatter


def sum_by_phase(data, good, bins, n_bins, *, n_threads=1):
    """Sum the good pixels of each frame by the phase at which they are read; see `gpucoron.backends.interference`."""
    nints, ngroups, ny, nx = data.shape
    n_quads = bins.size
    # Pixels that never count get a bin of their own, which is dropped.
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

    for_each_tile(add, frames.shape, n_threads)
    return sums, counts


def match_wave(sums, counts, wave, group_phases, n_trials, *, n_threads=1):
    """Work out chi-square's terms for a wave at trial phases; see `gpucoron.backends.interference`."""
    nints, ngroups, n_bins = sums.shape
    phases = bin_phases(n_bins, group_phases)
    trials = np.arange(n_trials) / n_trials
    times = np.arange(ngroups, dtype=np.float64)
    s_t, s_tt, delta = time_sums(ngroups)
    s_y = np.cumsum(sums, axis=1)[:, -1]
    s_ty = np.cumsum(sums * times[:, None], axis=1)[:, -1]
    quadratic, linear = np.empty((nints, n_trials)), np.empty((nints, n_trials))

    def match(columns):
        some = trials[columns, None]
        shape = (some.size, n_bins)
        x, m, z, scratch = np.empty(shape), np.empty(shape, np.intp), np.empty(shape), np.empty(shape)
        s_z, s_tz, s_zz = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        s_yz = np.zeros((nints, *shape))
        product = np.empty((min(nints, _INTEGRATIONS_AT_ONCE), *shape))
        for group in range(ngroups):
            np.add(phases[group], some, out=x)
            evaluate(wave, x, z, m, scratch)
            s_z += z
            s_tz += np.multiply(times[group], z, out=scratch)
            s_zz += np.multiply(z, z, out=scratch)
            for start in range(0, nints, _INTEGRATIONS_AT_ONCE):
                part = slice(start, start + _INTEGRATIONS_AT_ONCE)
                y = sums[part, group, None, :]
                s_yz[part] += np.multiply(y, z, out=product[: len(y)])
        of_wave = -s_tt * s_z * s_z + 2 * s_t * s_z * s_tz - ngroups * s_tz * s_tz + s_zz * delta
        for integration in range(nints):
            y, ty = s_y[integration], s_ty[integration]
            of_both = (s_tt * s_z * y - s_t * s_tz * y - s_t * s_z * ty + ngroups * s_tz * ty) / delta
            # The bins one after the other.
            quadratic[integration, columns] = np.cumsum(counts[integration] * of_wave / delta, axis=1)[:, -1]
            linear[integration, columns] = 2 * np.cumsum(of_both - s_yz[integration], axis=1)[:, -1]

    for_each_tile(match, (n_trials, 1), n_threads, tile_bytes=4 * _TRIALS_AT_ONCE)
    return quadratic, linear


def subtract_wave(data, wave, pixel_phases, group_phases, integration_phases, amplitudes, *, n_threads=1):
    """Subtract a wave from every sample, in place; see `gpucoron.backends.interference`."""
    nints, ngroups, ny, nx = data.shape
    quads = data.reshape(nints * ngroups, ny * nx // 4, 4)
    flat_phases = pixel_phases.ravel()

    def subtract(numbers):
        for start in range(0, flat_phases.size, _QUADS_AT_ONCE):
            part = slice(start, start + _QUADS_AT_ONCE)
            phases = flat_phases[part]
            x, z, scratch = (np.empty(phases.size) for _ in range(3))
            m = np.empty(phases.size, np.intp)
            wide = np.empty((phases.size, 4))
            for number in range(numbers.start, numbers.stop):
                integration, group = divmod(number, ngroups)
                np.add(phases, group_phases[group], out=x)
                np.add(x, integration_phases[integration], out=x)
                evaluate(wave, x, z, m, scratch)
                np.multiply(z, amplitudes[integration], out=z)
                wide[...] = z[:, None]
                samples = quads[number, part]
                np.subtract(samples, wide, out=samples, casting="same_kind")

    for_each_tile(subtract, quads.shape[:1] + (quads[0].size,), n_threads)


def evaluate(wave, x, z, m, scratch):
    """Evaluate a wave at phases, which are brought into [0, 1) in place.

    Parameters
    ----------
    wave : (4, n_pieces) float64
        As in `gpucoron.backends.interference`.
    x : (...) float64
        Phases; left as the places within the pieces.
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
    np.copyto(m, x, casting="unsafe")
    np.subtract(x, m, out=x)
    np.take(wave[3], m, out=z, mode="clip")
    for coefficients in wave[2::-1]:
        np.multiply(z, x, out=z)
        np.take(coefficients, m, out=scratch, mode="clip")
        np.add(z, scratch, out=z)


def bin_phases(n_bins, group_phases):
    """Give the middle of each bin in each group: (ngroups, n_bins) float64 in [0, 1)."""
    return ((np.arange(1, n_bins + 1) - 0.5) / n_bins + group_phases[:, None]) % 1


def time_sums(ngroups):
    """Give the sums of the groups' numbers, of their squares, and the determinant of a straight line's fit."""
    times = np.arange(ngroups)
    s_t, s_tt = float(times.sum()), float((times**2).sum())
    return s_t, s_tt, ngroups * s_tt - s_t**2
