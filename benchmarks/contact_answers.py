"""First contact: the results. Compare every step and heavy operation with NumPy or the host build of the kernels.

If an operation only adds, multiplies, divides and takes roots, in the same order, its bits must be equal: no operations
are contracted, and no values are flushed to zero. Each tolerance has its reason next to it.
"""

import copy
from types import SimpleNamespace

import array_exposures as arrays
import bench_gpu
import numpy as np
from contact_part import Wrong, host_reference

from gpucoron import dq
from gpucoron.backends import get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw, Spectrum
from gpucoron.backends.results import Slopes
from gpucoron.io.exposure import Exposure
from gpucoron.steps.apply_rateints_outliers import find_outliers
from gpucoron.steps.emicorr import ReadTimes, apply_emicorr
from gpucoron.steps.ipc import ReferenceEdges
from gpucoron.steps.kriging_1overf import noise_of_slopes, spectrum_of_integrations
from gpucoron.steps.optional_fit import count_segments
from gpucoron.steps.subtract_1overf import noise_of_ramp, noise_of_rateints
from tests.tools.exercise_kernels import make_ramps

#: the image size is not a multiple of a block of threads
CASES = {
    "default steps, NIRCam": arrays.Case("NIRCAM", 3, 10, 75, 84),
    "default steps, MIRI": arrays.Case("MIRI", 3, 70, 51, 68),
}
#: more integrations than the sigma clipping needs
CLIPPED = arrays.Case("MIRI", 105, 12, 24, 32)
REHEARSED = dict(zip(CASES, arrays.REHEARSAL.values(), strict=True))
CLIPPED_REHEARSED = arrays.Case("MIRI", 105, 6, 5, 8)

#: counts after dark and bias are compared as if they were at least 1 DN, below the read noise of 8 DN
FLOORS = {"data": 1.0, **bench_gpu.RATE_FLOORS}

#: sums over the bins of a phase in a different order, then one rounding to float32
EMICORR_TOLERANCE = 1.2e-7
#: fraction of the scatter of the model: the smoothing sums float32 values in a different order
SUBTRACT_1OVERF_TOLERANCE = 1e-4
#: the same for kriging: other rounding may end its iterations earlier or later, at most within their tolerance of 1 %
KRIGING_TOLERANCE = 1e-2

TIMES = {"group_time": 2.0, "frame_time": 0.5, "nframes": 4}


def reduce(case, path):
    """Return a function that runs all default steps on a backend and returns products, flags and corrected ramps."""

    def run(backend):
        if not path.exists():
            arrays.write_counts(case, path)
        exposure = arrays.make_exposure(case, arrays.read_counts(case, path, backend), backend)
        bench_gpu.run_steps(case, exposure, arrays.make_references(case, backend), backend)
        products = bench_gpu.to_host(backend, exposure)
        return products | {"groupdq": exposure.groupdq, "data": exposure.data, "pixeldq": exposure.pixeldq}

    return run


def check_steps(part):
    """Check all default steps; sigma clipping against the host build, because NumPy uses astropy for the clipping."""
    for name, case in (REHEARSED if part.rehearse else CASES).items():
        run = reduce(case, part.scratch / f"{name}.counts")
        part.compare(name, run, get_backend("numpy"), bench_gpu.RATE_TOLERANCE, FLOORS)
    case = CLIPPED_REHEARSED if part.rehearse else CLIPPED
    name = f"default steps, {case.nints} integrations"
    run = reduce(case, part.scratch / f"{name}.counts")
    part.compare(name, run, host_reference(), bench_gpu.RATE_TOLERANCE, FLOORS)


def check_operations(part):
    """Check every heavy operation in each of its modes."""
    shape = (3, 8, 11, 16) if part.rehearse else (4, 12, 45, 52)
    reference, host = get_backend("numpy"), host_reference()
    for name, run in plain_operations(shape).items():
        part.compare(name, run, reference)
    part.compare("fit, averaged groups", fit_of_averaged_groups(shape), reference)
    for name, run in clippings(shape).items():
        part.compare(name, run, host)
    part.compare("emicorr", emicorr_case(shape), reference, EMICORR_TOLERANCE)
    for rules in ("spaceklip", "stcal", "sound"):
        for name, run in likelihood_fits(shape, rules).items():
            part.compare(f"{name}, {rules}", run, reference)
    for name, run in subtract_1overf_models(shape).items():
        tolerance = KRIGING_TOLERANCE if name in ("spectrum", "kriging") else SUBTRACT_1OVERF_TOLERANCE
        part.compare(f"subtract_1overf: {name}", run, reference, tolerance, {"noise": 1.0})


def plain_operations(shape):
    """List the operations whose bits must be equal: name -> ``run(backend)``."""
    rng = np.random.default_rng(7)
    ramps, image = make_ramps(rng, shape), shape[2:]
    data, groupdq, gain, readnoise = ramps
    coeffs = rng.normal(1, 0.2, (5, *image)) * (10.0 ** -(5 * np.arange(5)))[:, None, None]
    coeffs[1] = rng.normal(1, 0.01, image)
    inverse = coeffs * np.array([1, 1, -1, -1, -1])[:, None, None]
    coeffs, inverse = coeffs.astype(np.float32), inverse.astype(np.float32)
    limit, checked = np.full(image, 150, np.float32), rng.random(image) < 0.9
    edges = ReferenceEdges(4, 0, 0, 3)
    cube = rng.normal(9, 1, (12, *image)).astype(np.float32)
    cube[rng.random(cube.shape) < 0.01] += 60
    words = np.arange(65536, dtype=np.uint16)
    after = {"after_jump_flag_n1": 2, "after_jump_flag_e1": 300.0, "after_jump_flag_n2": 4, "after_jump_flag_e2": 900.0}
    operations = {}

    for offset in (True, False):

        def load_counts(backend, offset=offset):

            def read(into, first):
                into[...] = words[first : first + into.size]

            return {"counts": backend.load_counts((65536,), read, offset=offset)}

        operations[f"counts of FITS, {'signed' if offset else 'unsigned'}"] = load_counts

    large = [rng.normal(size=(3, 700, 701)), rng.integers(0, 256, (2, 1100, 1000), dtype=np.uint8)]

    def travel(backend):
        there = [backend.to_device(array.copy()) for array in large]
        parts = backend.load_parts(large[0].shape, np.float32, (part.astype(">f4") for part in large[0]))
        return {"whole": there[0], "flags": there[1], "cut": there[0][:, ::2, 3:], "parts": parts}

    operations["large arrays, up and down"] = travel

    for side, per_pixel in ((3, False), (3, True), (5, False), (5, True), (7, False)):
        kernel = rng.normal(0, 0.01, (side, side, *(image if per_pixel else ()))).astype(np.float32)
        kernel[side // 2, side // 2] += 1

        def deconvolve(backend, kernel=kernel):
            given = send(backend, data, kernel)
            backend.deconvolve_ipc(*given, edges)
            return {"data": given[0]}

        operations[f"ipc, {side} x {side}{', of each pixel' if per_pixel else ''}"] = deconvolve

    for name, options in {"linearity": {}, "linearity of averaged reads": {"nframes": 4}}.items():

        def linearize(backend, options=options):
            given = send(backend, data * 100, groupdq, coeffs)
            more = {"inverse_coeffs": backend.to_device(inverse.copy())} if options else {}
            backend.linearity(*given, **options, **more)
            return {"data": given[0]}

        operations[name] = linearize

    for nframes in (None, 1, 4):
        for diagonal in (True, False):

            def flag_saturation(backend, nframes=nframes, diagonal=diagonal):
                given = send(backend, data, groupdq, limit, checked)
                bias = None if nframes is None else backend.to_device(gain * 10)
                options = {"n_pix_grow_sat": 2, "nframes": nframes, "bias": bias, "grow_diagonal": diagonal}
                backend.flag_saturation(*given, **options)
                return {"groupdq": given[1]}

            reads = "without read pattern" if nframes is None else f"{nframes} reads to a group"
            operations[f"saturation, {reads}, grown by a {'square' if diagonal else 'cross'}"] = flag_saturation

    def open_windows(backend):
        given = send(backend, data, groupdq, gain * 0)
        times = 10.0 * (1 + np.arange(shape[0] * shape[1]).reshape(shape[:2]))
        ends = given[2].astype(np.float64)
        backend.open_windows(*given[:2], ends, times, window=25, threshold=150.0)
        return {"groupdq": given[1], "ends": ends}

    operations["persistence"] = open_windows

    for along_y in (False, True):
        rows, columns = image[::-1] if along_y else image
        levels, sides = rng.normal(9, 2, (len(cube), columns)), rng.normal(0, 1, (len(cube), rows, 1))

        def subtract_levels(backend, along_y=along_y, levels=levels, sides=sides):
            given = send(backend, cube, levels, sides, np.arange(len(cube), dtype=np.uint8) % 2)
            backend.subtract_levels(*given, along_y=along_y)
            return {"frames": given[0]}

        operations[f"levels of reference pixels, along {'y' if along_y else 'x'}"] = subtract_levels

    for name, options in {
        "jumps, one pass": {"min_diffs_single_pass": 1},
        "jumps, one after the other": {"min_diffs_single_pass": 500},
        "jumps, groups after them": {"min_diffs_single_pass": 1, **after},
        "jumps, one after the other, groups after them": {"min_diffs_single_pass": 500, **after, "nframes": 4},
        "jumps, no neighbours": {"min_diffs_single_pass": 1, "flag_4_neighbors": False},
        "jumps, too few groups": {"minimum_groups": 100},
    }.items():
        operations[name] = jumps(ramps, options)

    def fit_ktc(backend):
        ramp, flags, limits = send(backend, data, groupdq, gain * 100)
        pedestal, slope = backend.fit_ktc(ramp, flags, limits, group_time=2.0)
        mean = backend.fit_mean_slope(ramp, flags, pedestal, limits, group_time=2.0)
        return {"pedestal": pedestal, "slope": slope, "mean slope": mean}

    def count_flags(backend):
        from gpucoron.batch.record import count_flags

        flags = backend.to_device(groupdq.copy())
        counts = backend.count_flags(flags, in_samples=0xFF, in_groups=dq.DO_NOT_USE, in_pixels=0xFF, everywhere=0xFF)
        run = SimpleNamespace(backend=backend, exposure=Exposure(groupdq=flags), flag_counts=counts)
        shares = {**count_flags(run), "by group": counts.fractions(dq.DO_NOT_USE)}
        shares |= {"pixels": counts.pixels, "everywhere": counts.everywhere}
        return {name: backend.xp.asarray(share) for name, share in shares.items()}

    pixeldq = rng.integers(0, 2**20, image).astype(np.uint32)

    def join_flags(backend):
        of_groups, of_pixels = send(backend, groupdq, pixeldq)
        of_integrations = backend.join_group_flags(of_groups, of_pixels)
        return {"of integrations": of_integrations, "of all": backend.join_integration_flags(of_integrations)}

    operations["flags of integrations"] = join_flags
    operations["subtract_ktc"] = fit_ktc
    operations["outliers among integrations"] = lambda backend: {
        "outliers": find_outliers(backend.to_device(cube.copy()), sigma_cut=3, backend=backend)
    }
    operations["background mask"] = lambda backend: {
        "mask": backend.background_mask(backend.to_device(cube[:4].copy()), None)
    }
    operations["batch: flags counted"] = count_flags
    return operations


def jumps(ramps, options):
    """Return a function that detects jumps and returns flags and count."""

    def run(backend):
        given = send(backend, *ramps)
        count = backend.detect_jumps(*given, **options)
        return {"groupdq": given[1], "count": backend.xp.asarray(count)}

    return run


def clippings(shape):
    """List the sigma clippings: over integrations, and over all groups of a pixel."""
    many = make_ramps(np.random.default_rng(8), (105, 6, *shape[2:]))
    few = make_ramps(np.random.default_rng(9), shape)
    return {
        "jumps, clipped over integrations": jumps(many, {}),
        "jumps, clipped over all groups": jumps(few, {"only_use_ints": False, "minimum_sigclip_groups": 5}),
    }


def fit_of_averaged_groups(shape):
    """Return a function that fits ramps with all optional inputs."""
    rng = np.random.default_rng(10)
    ramps = make_ramps(rng, shape)
    first = rng.normal(20, 4, (shape[0], *shape[2:])).astype(np.float32)
    original = np.where(ramps[1] & dq.CHARGELOSS, 0, ramps[1]).astype(np.uint8)

    def run(backend):
        data, groupdq, gain, readnoise, zeroframe, before = send(backend, *ramps, first, original)
        pixeldq = backend.zeros(shape[2:], np.uint32)
        given = data, groupdq, pixeldq, gain, readnoise
        rate, rateints = backend.fit_ramps(
            *given, **TIMES, zeroframe=zeroframe, dark_current=gain, original_groupdq=before
        )
        n_segments, n_jumps = count_segments(groupdq, zeroframe=zeroframe, backend=backend)
        nints, _, *image = data.shape
        shapes = (7 * nints, n_segments, *image), (nints, *image), (nints, n_jumps, *image)
        product = [backend.zeros(each, np.float32) for each in shapes]
        backend.fit_segments(*given, *product, gain, zeroframe, before, **TIMES)
        whole = {"segments": product[0], "starts of ramps": product[1], "heights of jumps": product[2]}
        whole |= {f"rate {name}": array for name, array in vars(rate).items()}
        return whole | {f"rateints {name}": array for name, array in vars(rateints).items()}

    return run


def emicorr_case(shape):
    """Return a function that subtracts two waves from ramps."""
    rng = np.random.default_rng(11)
    nints, ngroups, ny, nx = shape[:3] + (shape[3] // 4 * 4,)
    phases = (np.arange(50) + 0.5) / 50
    waves = [(390.625, np.sin(2 * np.pi * phases)), (10.039, np.cos(2 * np.pi * phases))]
    times = ReadTimes(1, 82, 23968)
    data = 15000 + np.arange(ngroups)[:, None, None] * rng.gamma(1, 20, (ny, nx))
    data = data + rng.normal(0, 6, (nints, ngroups, ny, nx))
    for frequency, wave in waves:
        pixels, groups, per_integration = times.phases(data.shape, frequency)
        turns = groups[:, None, None] + per_integration * np.arange(nints)[:, None, None, None] + 0.37
        data += 8 * np.repeat(np.interp((pixels + turns) % 1, phases, wave, period=1), 4, axis=-1)
    data = np.rint(data).astype(np.float32)

    def run(backend):
        ramp = backend.to_device(data.copy())
        amplitudes = apply_emicorr(ramp, backend.zeros((ny, nx), np.uint32), waves, times, backend=backend)
        if not all(np.abs(one).min() > 1 for one in amplitudes):
            msg = f"amplitudes of 8 DN were injected, and {amplitudes} measured"
            raise ValueError(msg)
        return {"data": ramp}

    return run


def likelihood_fits(shape, rules):
    """List the likelihood fits: of ramps with flags, with single reads, of differences."""
    rng = np.random.default_rng(12)
    data, groupdq, gain, readnoise = make_ramps(rng, shape)
    data = np.nan_to_num(data, nan=200)
    first = data[:, 0] / 2
    times = [[10.0 * group + 1, 10.0 * group + 3] for group in range(shape[1])]
    apart = [times[0][0], times[0][1:], *times[1:]]
    options = {"rules": rules, "max_diffs_one_sided": 4 if rules == "sound" else 0}

    def results(fit, **more):
        return {name: value for name, value in vars(fit).items() if value is not None} | more

    def ramps(backend):
        given = send(backend, data, groupdq, gain, readnoise)
        return results(backend.fit_likelihood_ramps(*given, times, **options), groupdq=given[1])

    def with_first_reads(backend):
        *given, dark, zero = send(backend, data, groupdq, gain, readnoise, gain / 100, first)
        fit = backend.fit_likelihood_ramps(*given, apart, **options, dark_current=dark, zeroframe=zero)
        return results(fit, groupdq=given[1])

    def differences(backend):
        steps, sig, used = send(
            backend, np.diff(data[0].astype(np.float64), axis=0), readnoise.astype(np.float64), groupdq[0, 1:] == 0
        )
        return results(backend.fit_likelihood(steps, times, sig, diffs2use=used, **options))

    return {
        "likelihood": ramps,
        "likelihood, first reads": with_first_reads,
        "likelihood of differences": differences,
    }


def subtract_1overf_models(shape):
    """List the models of 1/f noise, in units of their scatter."""
    rng = np.random.default_rng(13)
    ny, nx = shape[2:]
    cube = rng.normal(0, 1, (5, ny, nx)) + rng.normal(0, 3, (5, ny, 1))
    cube, flags = cube.astype(np.float32), np.where(rng.random(cube.shape) < 0.02, 1, 0).astype(np.uint32)
    data, groupdq, _, _ = make_ramps(rng, shape)
    data = np.nan_to_num(data, nan=200)

    def of_rateints(model_type):
        def run(backend):
            given = send(backend, cube, flags)
            return {"noise": noise_of_rateints(*given, model_type=model_type, backend=backend) / np.float32(3)}

        return run

    def of_groups(backend):
        ramp, dead, limit = send(backend, data, groupdq, np.full((ny, nx), 60000, np.float32))
        return {"noise": noise_of_ramp(ramp, dead, limit, 2.0, backend=backend) / np.float32(10)}

    # the spectrum of very small images cannot be measured
    large = (rng.normal(0, 1, (5, 45, 52)) + rng.normal(0, 3, (5, 45, 1))).astype(np.float32)

    def slopes_of(backend, cube, flags):
        rates, dq = send(backend, cube, flags)
        variances = backend.xp.full(rates.shape, np.float32(1))
        return Slopes(rates, dq, variances * np.float32(0.1), variances, variances)

    def spectrum(backend):
        law = spectrum_of_integrations(slopes_of(backend, large, np.uint32(large > 9)), None, -2, 1, 1, backend).common
        return {"noise": backend.xp.asarray([law.amplitude, law.exponent])}

    def by_kriging(backend):
        slopes = slopes_of(backend, cube, flags)
        noise, _ = noise_of_slopes(slopes, spectrum=Spectrum(PowerLaw(0.5, 1.0)), backend=backend)
        return {"noise": noise / np.float32(3)}

    models = {name: of_rateints(name) for name in ("savgol", "median", "mean", "fft")}
    return models | {"of each group": of_groups, "spectrum": spectrum, "kriging": by_kriging}


def check_chunks(part):
    """Check that rows in chunks, as for an exposure larger than the device memory, have the same bits as the whole."""
    shape = (2, 8, 11, 16) if part.rehearse else (4, 40, 64, 72)
    chunked = ("linearity", "saturation, 4", "jumps, one pass", "jumps, one after the other,")
    operations = {name: run for name, run in plain_operations(shape).items() if name.startswith(chunked)}
    operations |= clippings(shape) | {"fit": fit_of_averaged_groups(shape)}
    for name, run in operations.items():

        def in_chunks(backend, run=run):
            in_parts, sent = watch_chunks(backend, np.prod(shape) * 4 // 3)
            answers = run(in_parts)
            if max(sent.count(name) for name in sent) < 2:
                msg = "the rows were not processed in chunks"
                raise Wrong(msg)
            return answers

        part.compare(f"in chunks: {name}", in_chunks, part.backend, made_by=run)


def watch_chunks(backend, budget):
    """Return a backend with a memory budget of ``budget`` bytes, and a list of the calls of its device."""
    device, sent = copy.copy(backend.device), []

    def execute(operation, arguments, settings):
        sent.append(operation.name)
        return type(device).execute(device, operation, arguments, settings)

    device.execute = execute
    return Backend(device).in_chunks(budget), sent


def send(backend, *given):
    """Copy arrays to a backend, so that changes do not affect the originals."""
    return [backend.to_device(np.array(array)) for array in given]
