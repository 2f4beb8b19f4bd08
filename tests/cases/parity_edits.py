"""Edits of a simulated exposure that make sure that a branch of the code is used.

An edit changes the raw counts of a `Simulation` in place; a marker changes the flags of a ramp.
"""

import numpy as np

from gpucoron.dq import CHARGELOSS, DO_NOT_USE, DROPOUT, JUMP_DET, OUTLIER, PERSISTENCE, SATURATED, UNRELIABLE_FLAT

#: largest value of the A/D converter
TOP = 65535


def _raise(data, integration, group, y, x, counts):
    """Add counts from a group on, like a cosmic-ray hit."""
    ramp = data[integration][group:, y, x]
    data[integration][group:, y, x] = np.minimum(ramp + np.asarray(counts, np.int64), TOP)


def _borders(shape):
    """List pixels at the corners, the edges, next to them, and in the middle."""
    ny, nx = shape
    rows = (0, 1, ny // 3, ny // 2, ny - 2, ny - 1)
    columns = (0, 1, nx // 3, nx // 2, nx - 2, nx - 1)
    inner = (ny // 2, nx // 2)
    return [(y, x) for y in rows for x in columns if y in (0, ny - 1) or x in (0, nx - 1) or (y, x) == inner]


def several_jumps(simulation):
    """Add one to three hits to every tenth ramp; some ramps have a hit in the last group, some in every group."""
    data = simulation.data
    nints, ngroups, ny, nx = data.shape
    rng = np.random.default_rng(11)
    for integration in range(nints):
        for y, x in np.argwhere(rng.random((ny, nx)) < 0.1):
            for group in rng.integers(1, ngroups, rng.integers(1, 4)):
                _raise(data, integration, group, y, x, 10 ** rng.uniform(1.5, 3.9))
        for y, x in np.argwhere(rng.random((ny, nx)) < 0.02):
            _raise(data, integration, ngroups - 1, y, x, 3000)
        for y, x in np.argwhere(rng.random((ny, nx)) < 0.01):
            for group in range(1, ngroups):
                _raise(data, integration, group, y, x, rng.integers(200, 3000))


def hits_at_borders(simulation):
    """Add hits of increasing size at corners and edges, each next to a saturated ramp."""
    data = simulation.data
    nints, ngroups, ny, nx = data.shape
    for number, (y, x) in enumerate(_borders((ny, nx))):
        integration, group = number % nints, 1 + number % (ngroups - 1)
        _raise(data, integration, group, y, x, 150 * 2 ** (number % 8))
        if number % 3 == 0:
            data[integration, group:, y, min(x + 1, nx - 1)] = TOP


def saturate_at_borders(simulation):
    """Saturate pixels at corners and edges from the first group on, from the second, ..., in the last."""
    data, zeroframe = simulation.data, simulation.zeroframe
    nints, ngroups = data.shape[:2]
    for number, (y, x) in enumerate(_borders(data.shape[2:])):
        integration, group = number % nints, number % ngroups
        data[integration, group:, y, x] = TOP
        if zeroframe is not None and group == 0 and number % 2:
            zeroframe[integration, y, x] = TOP


def saturate_within_a_group(simulation):
    """Add hits so late in the second group that only the third group reaches the full well."""
    data = simulation.data
    ny, nx = data.shape[2:]
    rng = np.random.default_rng(13)
    for y, x in np.argwhere(rng.random((ny, nx)) < 0.06):
        _raise(data, 0, 1, y, x, rng.integers(2000, 30000))
        data[0, 2:, y, x] = TOP


def floor_at_borders(simulation):
    """Set pixels at corners and edges to the A/D floor: in one group, in all groups from one on, and in ZEROFRAME."""
    data, zeroframe = simulation.data, simulation.zeroframe
    nints, ngroups = data.shape[:2]
    for number, (y, x) in enumerate(_borders(data.shape[2:])):
        integration, group = number % nints, number % ngroups
        end = group + 1 if number % 2 else ngroups
        data[integration, group:end, y, x] = 0
        if zeroframe is not None and number % 4 == 0:
            zeroframe[integration, y, x] = 0


def few_good_groups(simulation):
    """Saturate stripes of rows after one or two groups, and in the first group with good, full or empty ZEROFRAME."""
    data, zeroframe = simulation.data, simulation.zeroframe
    for row in range(4, data.shape[2], 6):
        kind = (row - 4) // 6 % 5
        rows = slice(row, row + 3)
        data[:, (1, 2, 0, 0, 0)[kind] :, rows] = TOP
        if zeroframe is not None and kind > 2:
            zeroframe[:, rows] = TOP if kind == 3 else 0


def one_integration_saturated(simulation):
    """Saturate half of the rows at once in the first integration."""
    data = simulation.data
    data[0, :, : data.shape[2] // 2] = TOP


def snowballs(simulation):
    """Add round events: the core saturates at once, one group later, or never; in the middle and near an edge."""
    data = simulation.data
    nints, ngroups, ny, nx = data.shape
    y, x = np.indices((ny, nx))
    last = ngroups - 2
    for integration, group, y0, x0, core, halo, delay in (
        (0, 3, ny // 2, nx // 2, 5, 12, 0),
        (0, 2, ny // 3, 2 * nx // 3, 0, 7, 0),
        (0, last - 1, 2 * ny // 3, nx // 3, 4, 10, 1),
        (0, 4, 6, nx // 2, 0, 5, 0),
        (nints - 1, 2, ny // 2, nx // 3, 6, 11, 0),
        (nints - 1, last, 2 * ny // 3, 2 * nx // 3, 3, 9, 0),
        (nints - 1, 5, ny - 3, nx - 4, 2, 8, 0),
    ):
        r = np.hypot(y - y0, (x - x0) / 1.2)
        rows, columns = np.nonzero(r < halo)
        _raise(data, integration, group, rows, columns, 400 + 3000 * np.exp(-r[rows, columns] / 4))
        data[integration, group + delay :, r < core] = TOP


def showers(simulation):
    """Add faint extended events: each pixel is within the noise, the sum far above it."""
    data = simulation.data
    nints, ngroups, ny, nx = data.shape
    y, x = np.indices((ny, nx))
    for integration, group, y0, x0, counts in (
        (0, 4, ny // 2, nx // 2, 16),
        (0, ngroups - 4, ny // 4, nx // 4, 20),
        (nints - 1, 6, 3 * ny // 4, nx // 2, 14),
        (nints - 1, 6, ny // 4, 3 * nx // 4, 25),
    ):
        rows, columns = np.nonzero(np.hypot((y - y0) / 1.5, x - x0) < 9)
        _raise(data, integration, group, rows, columns, counts)


def group_flags(groupdq, pixeldq):
    """Set all kinds of group flags: DO_NOT_USE in the middle, alone and with other flags; and some pixel flags."""
    rng = np.random.default_rng(17)
    nints, ngroups, ny, nx = groupdq.shape
    for flags, share in (
        (DO_NOT_USE, 0.05),
        (PERSISTENCE, 0.05),
        (PERSISTENCE | DO_NOT_USE, 0.02),
        (OUTLIER, 0.02),
        (DROPOUT, 0.02),
        (JUMP_DET, 0.02),
        (SATURATED, 0.005),
        (CHARGELOSS | DO_NOT_USE, 0.02),
    ):
        groupdq[rng.random(groupdq.shape) < share] |= flags
    groupdq[0, ngroups // 2, : ny // 4] |= DO_NOT_USE
    # one good group, anywhere
    lonely = rng.random((nints, ny, nx)) < 0.05
    good = rng.integers(0, ngroups, (nints, ny, nx))
    for group in range(ngroups):
        groupdq[:, group][lonely & (good != group)] |= DO_NOT_USE
        groupdq[:, group][lonely & (good == group)] = 0
    groupdq[:, :, ny // 2, nx // 2] |= DO_NOT_USE
    pixeldq[rng.random((ny, nx)) < 0.02] |= UNRELIABLE_FLAT
    pixeldq[rng.random((ny, nx)) < 0.01] |= DO_NOT_USE


def whole_groups(groupdq, pixeldq):
    """Set DO_NOT_USE for all pixels in the first groups and the last one, and jumps in the first good group."""
    groupdq[:, :2] |= DO_NOT_USE
    groupdq[:, -1] |= DO_NOT_USE
    groupdq[:, 2, ::3] |= JUMP_DET


def no_groups(groupdq, pixeldq):
    """Set DO_NOT_USE for all pixels in every group."""
    groupdq |= DO_NOT_USE


def charge_loss(groupdq, pixeldq):
    """Add charge migration after some good groups, from the second group on, and everywhere."""
    ny = groupdq.shape[2]
    groupdq[:, 3:, : ny // 3] |= CHARGELOSS | DO_NOT_USE
    groupdq[:, 1:, ny // 3 : ny // 2] |= CHARGELOSS | DO_NOT_USE
    groupdq[:, :, ny // 2 : ny // 2 + 3] |= CHARGELOSS | DO_NOT_USE
    groupdq[:, 2, ::5] |= JUMP_DET
