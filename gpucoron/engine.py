"""The order of the steps for the near infrared and for MIRI; runs them on an exposure and keeps the record.

This is the one way through: file -> Exposure on the device -> steps in order, in place -> products -> file. What a step
needs and leaves it declares itself (`gpucoron.steps`).
"""

import gc
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from gpucoron.backends import check_backend, get_backend
from gpucoron.borrowed import HELPERS as BORROWED_HELPERS
from gpucoron.borrowed import check_borrowed, check_indirect
from gpucoron.errors import ParameterError
from gpucoron.io import logs, products
from gpucoron.io.boundary import told_of
from gpucoron.io.crds_lookup import crds_context
from gpucoron.io.hooks import check_hooks, run_hooks
from gpucoron.io.parameter_files import merge, parameters_from_crds, parameters_from_files, takes_crds_pars
from gpucoron.io.references import STORE, find_references, load_references
from gpucoron.io.user_files import check_files, read_files
from gpucoron.io.versions import check_versions
from gpucoron.parameters import copied_steps, resolve, settle_run, tell_unused, without_comparisons, without_unused
from gpucoron.steps import STEPS, run_step, skipped

log = logging.getLogger(__name__)

#: as jwst 3.0 runs them (``calwebb_detector1``)
_NIR_STEPS = ("group_scale", "dq_init", "saturation", "ipc", "superbias", "refpix", "linearity", "dark_current")
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
#: both instruments, with spaceKLIP's custom steps in their places; of a pair, the step runs at that ``stage_1overf``
_LAST_STEPS = (
    "charge_migration",
    "jump",
    "mask_groups",
    "subtract_ktc",
    ("subtract_1overf", "groups"),
    "picture_frame",
    "clean_flicker_noise",
    "persistence",
    "ramp_fit",
    "experimental_jumpramp",
    "apply_rateints_outliers",
    ("subtract_1overf", "ints"),
    "gain_scale",
)


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
    type -> path or 'N/A' from CRDS, and 'step.type' -> path where a step has an override, ``pars_files`` the parameter
    files that were applied (names of CRDS's, paths of the user's), ``context`` CRDS's context and software version.
    ``output_dir`` is where a step's own extra products go; None is the current folder. ``order`` names the steps as
    they run. ``phases`` holds the seconds that reading, planning and writing took, where ``reduce_file`` did it all.
    ``notes`` are lines for the history of the products, ``log_lines`` the log for them, see
    `gpucoron.io.logs.recorded`.
    """

    exposure: object
    backend: object
    profile: str
    parameters: dict
    of_run: object
    references: dict
    pars_files: list
    context: tuple
    order: tuple
    output_dir: object = None
    records: list = field(default_factory=list)
    phases: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    log_lines: list = field(default_factory=logs.lines_so_far)

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
        return any(STEPS[name].fits and not self.parameters[name].skip for name in self.order)


def order_of(facts, stage_1overf="ints"):
    """Return the names of the steps, in the order in which an exposure takes them.

    Parameters
    ----------
    facts : Facts
    stage_1overf : {'groups', 'ints'}
        Whether 1/f noise is removed before the fit or after it.
    """
    every = (_MIRI_STEPS if facts.is_miri else _NIR_STEPS) + _LAST_STEPS
    staged = (entry if isinstance(entry, tuple) else (entry, stage_1overf) for entry in every)
    return tuple(name for name, stage in staged if stage == stage_1overf)


def settle(exposure=None, *, profile="jwst", steps=None, pipeline=None, use_pars=None, pars=None):
    """Settle what applies to a run: the one place for every way to start one.

    What comes later decides: the defaults of the declarations, the profile, CRDS's parameter files, the user's own
    parameter files, the user's parameters.

    Parameters
    ----------
    exposure : Exposure, optional
        Without one, what was asked for is checked, and CRDS is not.
    profile, steps, pipeline, use_pars, pars
        As for `plan`.

    Returns
    -------
    parameters : dict of SimpleNamespace
        step -> its parameters.
    of_run : SimpleNamespace
        The parameters of the run as a whole.
    pars_files : list of str
        Parameter files that were applied: names of CRDS's, paths of the user's.

    Raises
    ------
    ParameterError, ReferenceFileError, VersionError
    """
    check_versions()
    steps = copied_steps(steps)
    facts = {} if exposure is None else {"instrument": exposure.facts.instrument, "subarray": exposure.facts.subarray}
    from_crds, of_run_from_crds, pars_files = {}, {}, []
    if exposure is not None and takes_crds_pars(profile, use_pars):
        from_crds, of_run_from_crds, pars_files = parameters_from_crds(exposure)
    from_own, of_run_from_own, own = parameters_from_files(pars)
    pars_files = [*pars_files, *own]
    parameters = resolve(STEPS, profile, from_files=merge(from_crds, from_own), steps=steps, **facts)
    of_run = settle_run(STEPS, parameters, {**of_run_from_crds, **of_run_from_own, **(pipeline or {})})
    _check_together(parameters)
    products.check_files_of_results(parameters, of_run)
    check_files(STEPS, parameters)
    check_hooks(parameters)
    tell_unused(STEPS, steps)
    return parameters, of_run, pars_files


def _check_together(parameters):
    """Refuse parameters that cannot go together, as their steps say."""
    for name, settings in parameters.items():
        wrong = STEPS[name].refuses and not settings.skip and STEPS[name].refuses(settings)
        if wrong:
            raise ParameterError(wrong)


def plan(exposure, *, profile="jwst", steps=None, pipeline=None, backend="auto", use_pars=None, pars=None, only=None):
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
    backend : str or Backend, optional
        See `gpucoron.backends.get_backend`; None is 'auto'.
    use_pars : bool, optional
        Apply CRDS's parameter files; by default in the ``jwst`` profile alone, and not where the variable
        STPIPE_DISABLE_CRDS_STEPPARS says so.
    pars : str, Path or sequence of them, optional
        Parameter files of one's own, of a step or of a pipeline; they overrule CRDS's, and ``steps`` overrules them.
    only : str, optional
        Run this step alone, also where the instrument's order does not have it.

    Returns
    -------
    Run

    Raises
    ------
    ParameterError, ReferenceFileError, BackendUnavailableError, VersionError
    """
    backend = get_backend(backend)
    context = crds_context()
    parameters, of_run, pars_files = settle(
        exposure, profile=profile, steps=steps, pipeline=pipeline, use_pars=use_pars, pars=pars
    )
    order = (only,) if only else order_of(exposure.facts, of_run.stage_1overf)
    for name in STEPS.keys() - set(order):
        if parameters[name].pre_hooks or parameters[name].post_hooks:
            log.warning("%s: hooks of %s: not run, for this instrument has no such step", exposure.name, name)
    wanted, overrides, latest = [], {}, {}
    for name in order:
        step, settings = STEPS[name], parameters[name]
        if not settings.skip:
            check_borrowed(step)
            wanted += step.indirect(settings)
        for reftype in () if settings.skip else step.references_of(settings, exposure.facts):
            override = getattr(settings, f"override_{reftype}")
            if step.custom and override is None:
                # a custom step works on what jwst's step before it has used
                override = latest.get(reftype)
            if override is None:
                wanted.append(reftype)
            else:
                overrides[f"{name}.{reftype}"] = latest[reftype] = override
    references = find_references(exposure, wanted, overrides)
    check_indirect([STEPS[name] for name in order], parameters, references, exposure.name)
    return Run(
        exposure=exposure,
        backend=backend,
        profile=profile,
        parameters=parameters,
        of_run=of_run,
        references=references,
        pars_files=pars_files,
        context=context,
        order=order,
    )


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
    backend = exposure.settle_on(run.backend)
    if backend is not run.backend:
        log.warning("%s: %s", exposure.name, backend.remark)
        run.backend = backend
    references = load_references(exposure, run.references, backend, store)
    cleans = any(
        STEPS[name].cleans_groups is not None
        and not run.parameters[name].skip
        and STEPS[name].cleans_groups(run.of_run)
        for name in run.order
    )
    backend.settle(exposure.data.shape, cleans_groups=cleans)
    settings = read_files([STEPS[name] for name in run.order], run.parameters, exposure)
    logs.log_run(run)
    _run_each(run, references, settings, until, after_step)
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
    check_versions()  # before anything is read
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


def _run_each(run, references, settings, until, after_step):
    backend = run.backend
    for name in run.order:
        if name == until:
            break
        backend.take_workers()
        start = time.perf_counter()
        logs.log_start(run, STEPS[name])
        outcome = _run_with_hooks(STEPS[name], run, references, settings.get(name))
        backend.synchronize()
        seconds, workers = time.perf_counter() - start, backend.take_workers()
        workers = tuple(workers) if outcome.status == "COMPLETE" else ()
        record = StepRecord(name, outcome.status, seconds, outcome.reason, dict(outcome.flagged), workers)
        run.records.append(record)
        logs.log_end(record)
        if after_step is not None:
            after_step(run, record)


def _run_with_hooks(step, run, references, settings):
    """Run a step between its hooks, which run for a step that is switched off (``settings`` None) too."""
    run_hooks(run, step, "pre")
    outcome = skipped("switched off") if settings is None else _run_one(step, run, references, settings)
    products.note_step(run, step, outcome)
    run_hooks(run, step, "post")
    return outcome


def _run_one(step, run, references, settings):
    """Run a step; what it cannot do with these arrays is told with the file's and the step's name."""
    exposure = run.exposure
    usable = {reftype: references.get(f"{step.name}.{reftype}", references.get(reftype)) for reftype in step.references}
    helpers = {name: _HELPERS[name](run, step) for name in step.helpers}
    files = ", ".join(str(reference.path) for reference in usable.values() if reference is not None)
    advice = f" (references: {files})" if files else ""
    with told_of(exposure.name, step.name, advice=advice, spared=run.backend.is_out_of_memory):
        return run_step(step.name, exposure, usable, settings, run.backend, **helpers)


def _make_fit(run, step):
    """Make ``fit(exposure, references)``: the fit that the run's exposure has had, without what else it leaves."""

    def fit(exposure, references):
        name = next(name for name in run.order if STEPS[name].fits and not run.parameters[name].skip)
        return run_step(name, exposure, references, run.parameters[name], run.backend)

    return fit


#: helper that a step may ask for -> its maker, ``maker(run, step)``
_HELPERS = {
    **BORROWED_HELPERS,
    "stage": lambda run, step: run.of_run.stage_1overf,
    "fit": _make_fit,
    "replaced": lambda run, step: {name: run.parameters[name] for name in step.replaces},
}


@logs.recorded()
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
    pars=None,
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
    backend : str or Backend, optional
        See `gpucoron.backends.get_backend`; None is 'auto'.
    overwrite : bool
        Replace products that exist.
    save_results : bool
        False writes nothing.
    use_pars, pars
        CRDS's parameter files and one's own: see `plan`.
    after_step : callable, optional
        Called as ``after_step(run, record)`` when a step is done.
    max_memory : int or str, optional
        Bytes of anonymous memory that the process may have (the CPU backend), or that the exposure may take on its
        device, or text such as '4G'; by default what is free. An exposure that needs more is worked on by chunks of
        rows, on the CPU from a scratch file in the output folder; docs/performance.md says how closely the limit is
        kept. A Backend has its own limit, and this one beside it is refused.
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
    from gpucoron.io.exposure import check_path

    path = check_path(path)
    settle(profile=profile, steps=steps, pipeline=of_run, pars=pars)  # before anything is made
    steps = without_comparisons(STEPS, without_unused(STEPS, steps or {}))
    scratch = {"scratch_dir": output_dir} if save_results and isinstance(check_backend(backend), str) else {}
    backend = get_backend(backend, max_memory=max_memory, **scratch)
    if save_results:
        due = [products.product_path(path, output_dir, suffix) for suffix in ("rate", "rateints")]
        products.prepare_output(output_dir, due, overwrite, path)
    asked = {"profile": profile, "steps": steps, "pipeline": of_run, "use_pars": use_pars, "pars": pars}
    with told_of(path):
        return _reduce(path, output_dir, asked, backend, save_results, after_step)


def _reduce(path, output_dir, asked, backend, save_results, after_step):
    """Do what `reduce_file` has settled; ``asked`` is for `plan`."""
    from gpucoron.io.exposure import Exposure

    def start(backend):
        begun = time.perf_counter()
        exposure = Exposure.read(path, backend)
        read = time.perf_counter()
        run = plan(exposure, backend=backend, **asked)
        run.phases = {"read": read - begun, "plan": time.perf_counter() - read}
        run.output_dir = Path(output_dir)
        logs.log_parameters(run)
        return run

    def extra_at(extra):
        return products.spare_input(products.extra_path(extra, path, output_dir), path)

    paths = {}
    save = products.saving_extras(extra_at if save_results else None, after_step, paths)
    run = run_or_start_again(start, backend, after_step=save)
    fitted = time.perf_counter()
    models = {"rate": products.rate_model(run), "rateints": products.rateints_model(run)}
    if not run.fits:
        # as jwst: without a fit, the ramp is the product
        models["ramp"] = products.ramp_model(run)
    made = {suffix: model for suffix, model in models.items() if model is not None}
    if save_results and made:
        to_write = {extra_at(products.Extra(kind, suffix=kind)): model for kind, model in made.items()}
        products.save(to_write)
        paths.update({path.stem: path for path in to_write})
    run.phases["write"] = time.perf_counter() - fitted
    return run, models, paths
