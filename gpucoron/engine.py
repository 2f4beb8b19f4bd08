"""The order of the steps for the near infrared and for MIRI; runs them on an exposure and keeps the record.

This is the one way through: file -> Exposure on the device -> steps in order, in place -> products -> file.
"""

import gc
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

from gpucoron import parameters as declarations
from gpucoron.backends import fit_to_memory, get_backend
from gpucoron.errors import InputError
from gpucoron.io.references import (
    STORE,
    crds_context,
    find_references,
    load_references,
    parameters_from_crds,
    read_array,
    read_flags,
)
from gpucoron.steps import skipped

log = logging.getLogger(__name__)

#: as jwst 3.0 runs them (``calwebb_detector1``)
_NIR_STEPS = (
    "group_scale",
    "dq_init",
    "saturation",
    "ipc",
    "superbias",
    "refpix",
    "linearity",
    "dark_current",
)
_MIRI_STEPS = (
    "group_scale",
    "dq_init",
    "emicorr",
    "saturation",
    "ipc",
    "firstframe",
    "lastframe",
    "reset",
    "linearity",
    "rscd",
    "dark_current",
    "refpix",
)
#: both instruments, with spaceKLIP's custom steps in their places
_LAST_STEPS = (
    "charge_migration",
    "jump",
    "mask_groups",
    "subtract_ktc",
    "subtract_1overf",  # at stage 'groups'
    "picture_frame",
    "clean_flicker_noise",
    "persistence",
    "ramp_fit",
    "experimental_jumpramp",
    "apply_rateints_outliers",
    "subtract_1overf",  # at stage 'ints'
    "gain_scale",
)

#: steps that run jwst's own code on the host, until ours replaces it
BORROWED = ("picture_frame", "clean_flicker_noise", "persistence")


@dataclass
class StepRecord:
    """What became of one step; ``workers`` names who did it: backends, or 'jwst'."""

    name: str
    status: str
    seconds: float
    reason: str = ""
    flagged: dict = field(default_factory=dict)
    workers: tuple = ()


@dataclass
class Run:
    """One exposure's way through stage 1: what was done, with what, and how long it took.

    ``parameters`` holds step -> namespace as settled, ``of_run`` the parameters of the run as a whole, ``references``
    type -> path or 'N/A' from CRDS, and 'step.type' -> path where a step has an override, ``pars_files`` the names of
    CRDS's parameter files that were applied, ``context`` CRDS's context and software version. ``output_dir`` is where
    a step's own extra products go; None is the current folder. ``phases`` holds the seconds that reading, planning and
    writing took, where ``reduce_file`` did it all.
    """

    exposure: object
    backend: object
    profile: str
    parameters: dict
    of_run: object
    references: dict
    pars_files: list
    context: tuple
    output_dir: object = None
    records: list = field(default_factory=list)
    phases: dict = field(default_factory=dict)

    @property
    def seconds(self):
        """Time spent in the steps."""
        return sum(record.seconds for record in self.records)

    @property
    def workers(self):
        """Who has worked on the exposure: the names of backends, or 'jwst', in the order of their first step."""
        return list(dict.fromkeys(worker for record in self.records for worker in record.workers))

    def reference_path(self, step, reftype):
        """Give the path of a reference that a step takes: its own override, else CRDS's; None if it was not sought."""
        return self.references.get(f"{step}.{reftype}", self.references.get(reftype))

    @property
    def fits(self):
        """Whether ramps are fitted at all: else the ramp is the product."""
        return not (self.parameters["ramp_fit"].skip and self.parameters["experimental_jumpramp"].skip)


def order_of(facts, stage_1overf="ints"):
    """Return the names of the steps, in the order in which an exposure takes them.

    Parameters
    ----------
    facts : Facts
    stage_1overf : {'groups', 'ints'}
        Whether 1/f noise is removed before the fit or after it.
    """
    order = list((_MIRI_STEPS if facts.is_miri else _NIR_STEPS) + _LAST_STEPS)
    before_fit = order.index("subtract_1overf")
    if stage_1overf == "ints":
        del order[before_fit]
    else:
        del order[order.index("subtract_1overf", before_fit + 1)]
    return tuple(order)


def plan(exposure, *, profile="jwst", steps=None, pipeline=None, backend="auto", use_pars=None):
    """Settle everything that can be settled before any work: parameters and references.

    Parameters
    ----------
    exposure : Exposure
    profile : {'jwst', 'spaceklip'}
        Defaults to start from.
    steps : dict of dicts, optional
        step -> parameter -> value.
    pipeline : dict, optional
        Parameters of the run as a whole: save_calibrated_ramp, stage_1overf, ...; CRDS's files may set others.
    backend : str or Backend
    use_pars : bool, optional
        Apply CRDS's parameter files; by default in the ``jwst`` profile alone.

    Returns
    -------
    Run

    Raises
    ------
    ParameterError, ReferenceFileError, BackendUnavailableError
    """
    backend = get_backend(backend)
    facts = exposure.facts
    context = crds_context()
    from_crds, files = {}, []
    if use_pars if use_pars is not None else profile == "jwst":
        from_crds, of_run, files = parameters_from_crds(exposure)
        pipeline = {**of_run, **(pipeline or {})}
    settled = declarations.resolve(
        profile, from_crds=from_crds, steps=steps, instrument=facts.instrument, subarray=facts.subarray
    )
    of_run = declarations.settle_run(settled, pipeline or {})
    wanted, overrides, latest = [], {}, {}
    for name in order_of(facts, of_run.stage_1overf):
        for reftype in [] if settled[name].skip else _references_of(name, settled[name], facts):
            override = getattr(settled[name], f"override_{reftype}")
            if declarations.STEPS[name].custom and override is None:
                # a custom step works on what jwst's step before it has used
                override = latest.get(reftype)
            if override is None:
                wanted.append(reftype)
            else:
                overrides[f"{name}.{reftype}"] = latest[reftype] = override
    return Run(
        exposure=exposure,
        backend=backend,
        profile=profile,
        parameters=settled,
        of_run=of_run,
        references=find_references(exposure, wanted, overrides),
        pars_files=files,
        context=context,
    )


def _references_of(name, settings, facts):
    """List the reference types that a step opens; jwst's step may declare more than it needs."""
    if name == "refpix":
        is_sirs = settings.refpix_algorithm == "sirs" and not facts.is_miri and "FULL" in facts.subarray
        return ["sirskernel"] if is_sirs else []
    if name == "clean_flicker_noise":
        return ["flat"] if settings.apply_flat_field else []
    if name == "picture_frame":
        return ["pictureframe"]
    return list(declarations.STEPS[name].references)


def run_steps(run, *, until=None, after_step=None, store=None):
    """Run the steps of a plan, in place on its exposure.

    Parameters
    ----------
    run : Run
    until : str, optional
        Stop before this step.
    after_step : callable, optional
        Called as ``after_step(run, record)`` when a step is done.
    store : ReferenceStore, optional
        Where references are kept; by default the process's own.

    Returns
    -------
    Run
        The same, with its records filled.
    """
    exposure = run.exposure
    backend = exposure.home or _backend_for(run)
    if backend is not run.backend:
        log.warning("%s: %s", exposure.name, backend.remark)
        run.backend = backend
    references = load_references(exposure, run.references, backend, store)
    exposure.move_to(backend)
    cleans = not run.parameters["subtract_1overf"].skip and run.of_run.stage_1overf == "groups"
    backend.settle(exposure.data.shape, cleans_groups=cleans)
    _run_each(run, references, until, after_step)
    return run


def run_or_start_again(start, backend, *, after_step=None):
    """Run the steps of an exposure; if its device runs out of memory, begin again and go by chunks of rows.

    Parameters
    ----------
    start : callable
        ``start(backend)`` reads the exposure and returns its `Run`; called again, it returns a new one. Steps work in
        place, so nothing less can be begun again.
    backend : Backend
    after_step : callable, optional
        As for `run_steps`; called anew for the steps that are done again.

    Returns
    -------
    Run
    """
    begun, run = time.perf_counter(), None
    try:
        run = start(backend)
        return run_steps(run, after_step=after_step)
    except Exception as error:
        is_in_chunks = run is not None and run.backend is not backend
        if backend.on_host or is_in_chunks or not backend.is_out_of_memory(error):
            raise
        reason = str(error)
    # Only here, after the exception, can the exposure's arrays go.
    del run
    STORE.clear()
    gc.collect()
    backend.release_memory()
    limit = backend.memory_limit()
    if limit is None:
        msg = f"backend {backend.name!r} is out of memory, and its size is unknown ({reason}); set max_memory"
        raise MemoryError(msg)
    log.warning(
        "out of device memory after %.1f s (%s): the exposure starts again, in chunks of rows",
        time.perf_counter() - begun, reason,
    )  # fmt: skip
    return run_steps(start(backend.in_chunks(limit)), after_step=after_step)


def _backend_for(run):
    """Choose how the backend works on an exposure; one that is in the host's memory already stays there for the CPU."""
    exposure = run.exposure
    if run.backend.on_host:
        return run.backend
    return fit_to_memory(
        run.backend,
        exposure.data.shape,
        has_zeroframe=exposure.zeroframe is not None,
        held=exposure.device_bytes,
    )


def _run_each(run, references, until, after_step):
    exposure, backend = run.exposure, run.backend
    for name in order_of(exposure.facts, run.of_run.stage_1overf):
        if name == until:
            break
        settings = run.parameters[name]
        backend.take_workers()
        start = time.perf_counter()
        if settings.skip:
            outcome = skipped("switched off")
        elif name in BORROWED:
            from gpucoron import borrowed

            outcome = borrowed.run(name, exposure, settings, partial(run.reference_path, name), backend, run.output_dir)
        else:
            outcome = _run_own(name, run, references)
        backend.synchronize()
        seconds, workers = time.perf_counter() - start, backend.take_workers()
        workers = tuple(workers) if outcome.status == "COMPLETE" else ()
        record = StepRecord(name, outcome.status, seconds, outcome.reason, dict(outcome.flagged), workers)
        run.records.append(record)
        _note(exposure, name, outcome, run)
        log.info("%s: %s %s %.3f s %s", exposure.name, name, record.status, record.seconds, record.reason)
        if after_step is not None:
            after_step(run, record)


def _run_own(name, run, references):
    """Run one of our own steps; what it cannot do with these arrays is told with the file's and the step's name."""
    exposure, settings = run.exposure, run.parameters[name]
    module = import_module(f"gpucoron.steps.{name}")
    usable = {
        reftype: references.get(f"{name}.{reftype}", references.get(reftype))
        for reftype in declarations.STEPS[name].references
    }
    settings = _with_arrays(name, settings)
    if name == "ramp_fit" and settings.save_opt and not _fits_by_likelihood(exposure, settings):
        from gpucoron import borrowed

        borrowed.save_optional_fit(exposure, settings, partial(run.reference_path, name), run.backend, run.output_dir)
    try:
        return module.run(exposure, usable, settings, run.backend, **_helpers(name, run))
    except ValueError as error:
        files = ", ".join(str(reference.path) for reference in usable.values() if reference is not None)
        msg = f"{exposure.name}: {name}: {error}" + (f" (references: {files})" if files else "")
        raise InputError(msg) from error


def _fits_by_likelihood(exposure, settings):
    """Tell whether ramp_fit will leave its chi-square, which is then the optional product."""
    from gpucoron.steps.ramp_fit import FEWEST_LIKELY_GROUPS

    return settings.algorithm == "LIKELY" and exposure.data.shape[1] >= FEWEST_LIKELY_GROUPS


def _with_arrays(name, settings):
    """Read the arrays that parameters name by file; steps read no files themselves."""
    if name == "dq_init" and settings.user_supplied_dq is not None:
        return SimpleNamespace(**{**vars(settings), "user_supplied_dq": read_flags(settings.user_supplied_dq)})
    arrays = {
        key: read_array(value)
        for key, value in vars(settings).items()
        if isinstance(value, (str, Path)) and declarations.declared(name)[key].kind == "array"
    }
    return SimpleNamespace(**{**vars(settings), **arrays}) if arrays else settings


def _helpers(name, run):
    """Hand a step what it cannot know: the stage, the fit that the exposure has had, borrowed code for rare modes."""
    from gpucoron import borrowed

    if name == "subtract_1overf":
        return {"stage": run.of_run.stage_1overf}
    if name == "emicorr":
        own = partial(
            borrowed.run,
            name,
            run.exposure,
            run.parameters[name],
            partial(run.reference_path, name),
            run.backend,
            run.output_dir,
        )
        return {"jwsts_own": own}
    if name == "apply_rateints_outliers":
        fit = "experimental_jumpramp" if run.parameters["ramp_fit"].skip else "ramp_fit"
        module = import_module(f"gpucoron.steps.{fit}")
        settings, helpers = run.parameters[fit], _helpers(fit, run)

        def fit_again(exposure, references):
            return module.run(exposure, references, settings, run.backend, **helpers)

        return {"fit": fit_again}
    functions = {
        "jump": {"large_events": borrowed.large_events},
        "refpix": {"full_frame": borrowed.full_frame_refpix},
    }.get(name, {})
    return {key: partial(function, backend=run.backend) for key, function in functions.items()}


def _note(exposure, name, outcome, run):
    """Write into the metadata what jwst's own step would have left there."""
    meta = exposure.meta.meta
    if not declarations.STEPS[name].custom:
        setattr(meta.cal_step, declarations.STEPS[name].cal_step, outcome.status)
    for dotted, value in outcome.meta.items():
        *parents, last = dotted.split(".")
        node = meta
        for parent in parents:
            node = getattr(node, parent)
        setattr(node, last, value)
    if outcome.reason == "switched off":
        return
    for reftype in _references_of(name, run.parameters[name], exposure.facts):
        path = run.reference_path(name, reftype)
        if path is not None and hasattr(meta.ref_file, reftype):
            getattr(meta.ref_file, reftype).name = reference_name(path, run.parameters[name], reftype)


def reference_name(path, settings, reftype):
    """Name a reference as jwst does in a product: CRDS's by URI, the user's by path."""
    if path == "N/A":
        return "N/A"
    if getattr(settings, f"override_{reftype}", None) is not None:
        return str(Path(path).resolve())
    return f"crds://{Path(path).name}"


def reduce_file(
    path,
    output_dir,
    *,
    profile="jwst",
    steps=None,
    backend="auto",
    overwrite=False,
    save_results=True,
    use_pars=None,
    after_step=None,
    max_memory=None,
    **of_run,
):
    """Reduce one file: read it, run stage 1, write ``rate`` and ``rateints``.

    Parameters
    ----------
    path : str or Path
        ``*_uncal.fits`` or ``*_ramp.fits``.
    output_dir : str or Path
        Made if it does not exist.
    profile : {'jwst', 'spaceklip'}
        Whose defaults to start from.
    steps : dict of dicts, optional
        step -> parameter -> value. Not changed.
    backend : str or Backend
    overwrite : bool
        Replace products that exist.
    save_results : bool
        False writes nothing.
    use_pars : bool, optional
        Apply CRDS's parameter files; by default in the ``jwst`` profile alone.
    after_step : callable, optional
        Called as ``after_step(run, record)`` when a step is done.
    max_memory : int, optional
        Bytes that the process may have in memory, all told (the CPU backend), or that the exposure may take on its
        device; by default what is free. An exposure that needs more is worked on by chunks of rows, on the CPU from a
        scratch file in the output folder; docs/performance.md says how closely the limit is kept. A Backend has its
        own limit, and this one does not count.
    **of_run
        Parameters of the run as a whole: save_calibrated_ramp, save_intermediates, stage_1overf, rate_int_outliers.

    Returns
    -------
    run : Run
    models : dict
        'rate' and 'rateints' -> model, or None where no ramp could be fitted.
    paths : dict
        Stem of the name -> path of what was written.

    Raises
    ------
    GpucoronError
        One of its kinds; nothing was written.
    """
    from gpucoron.io import products
    from gpucoron.io.exposure import Exposure

    def at(suffix):
        return products.product_path(path, output_dir, suffix)

    if save_results:
        products.prepare_output(output_dir, [at("rate"), at("rateints")], overwrite)
    if isinstance(backend, str):
        backend = get_backend(backend, max_memory=max_memory, scratch_dir=output_dir if save_results else None)

    def start(backend):
        begun = time.perf_counter()
        exposure = Exposure.read(path, backend)
        read = time.perf_counter()
        run = plan(exposure, profile=profile, steps=steps, pipeline=of_run, backend=backend, use_pars=use_pars)
        run.phases = {"read": read - begun, "plan": time.perf_counter() - read}
        run.output_dir = Path(output_dir)
        return run

    paths = {}

    def save_what_is_asked(run, record):
        extras = products.extra_products(run, record)
        to_write = {at(suffix): model for suffix, model in extras.items()}
        if record.name == "ramp_fit":
            name = run.parameters["ramp_fit"].opt_name or path
            for suffix, model in products.chisq_product(run).items():
                to_write[products.product_path(name, output_dir, suffix)] = model
        if record.name == "dark_current" and run.parameters["dark_current"].dark_output is not None:
            to_write |= {Path(output_dir) / name: model for name, model in products.dark_product(run).items()}
        if to_write and save_results:
            products.save(to_write)
            paths.update({path.stem: path for path in to_write})
        if after_step is not None:
            after_step(run, record)

    run = run_or_start_again(start, backend, after_step=save_what_is_asked)
    fitted = time.perf_counter()
    models = {"rate": products.rate_model(run), "rateints": products.rateints_model(run)}
    if not run.fits:
        # as jwst: without a fit, the ramp is the product
        models["ramp"] = products.ramp_model(run)
    to_write = {at(suffix): model for suffix, model in models.items() if model is not None}
    if save_results and to_write:
        products.save(to_write)
        paths.update({path.stem: path for path in to_write})
    run.phases["write"] = time.perf_counter() - fitted
    return run, models, paths
