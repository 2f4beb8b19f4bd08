"""Plan and run stage 1 on one exposure: settle parameters and references, run the steps in order, keep records.

Every way to start a reduction uses this module: file -> Exposure on the device -> steps in order, in place -> products
-> file. Each step declares what it needs and what it produces (`gpucoron.steps`).
"""

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gpucoron.backends import check_backend, get_backend
from gpucoron.backends.backend import BackendLike
from gpucoron.errors import ParameterError
from gpucoron.facts import Facts
from gpucoron.files import AnyPath, Paths, check_is_path
from gpucoron.interactive import public
from gpucoron.io import logs, products
from gpucoron.io.boundary import converted_errors
from gpucoron.io.crds_lookup import crds_context
from gpucoron.io.exposure import Exposure, check_path
from gpucoron.io.hooks import check_hooks, run_hooks
from gpucoron.io.parameter_files import parameters_from_crds, parameters_from_files, takes_crds_pars
from gpucoron.io.persistence_file import write_later
from gpucoron.io.references import STORE, check_indirect, find_references, load_references
from gpucoron.io.start_times import start_times
from gpucoron.io.user_files import check_files, read_files
from gpucoron.io.versions import check_versions
from gpucoron.parameters import (
    RUN_PRESETS,
    Profile,
    RunParameters,
    StepSettings,
    copied_steps,
    resolve,
    settle_run,
)
from gpucoron.parameters.without_effect import (
    tell_unused,
    tell_unused_of_skipped,
    without_comparisons,
    without_unused,
)
from gpucoron.records.run import Run as Run
from gpucoron.records.run import StepRecord as StepRecord
from gpucoron.steps import STEPS, run_step, skipped

log = logging.getLogger(__name__)

#: the order of jwst 3.0 (``calwebb_detector1``)
_NIR_STEPS = ("group_scale", "dq_init", "saturation", "ipc", "superbias", "refpix", "linearity", "dark_current")
_MIRI_STEPS = (
    "group_scale", "dq_init", "emicorr", "saturation", "ipc", "firstframe", "lastframe", "reset", "linearity", "rscd",
    "dark_current", "refpix",
)  # fmt: skip
#: for both instruments, with the custom steps of spaceKLIP; a pair is a step and the ``stage_1overf`` at which it runs
_LAST_STEPS = (
    "charge_migration", "jump", "mask_groups", "subtract_ktc", ("subtract_1overf", "groups"), "picture_frame",
    "clean_flicker_noise", "persistence", "ramp_fit", "experimental_jumpramp", "apply_rateints_outliers",
    ("subtract_1overf", "ints"), "gain_scale",
)  # fmt: skip


def order_of(facts: Facts, stage_1overf: str = "ints") -> tuple[str, ...]:
    """Return the names of the steps in the order in which they run on an exposure.

    Parameters
    ----------
    facts : Facts
    stage_1overf : {'groups', 'ints'}
        Whether 1/f noise is removed before the fit or after it.
    """
    entries = (_MIRI_STEPS if facts.is_miri else _NIR_STEPS) + _LAST_STEPS
    staged = (entry if isinstance(entry, tuple) else (entry, stage_1overf) for entry in entries)
    return tuple(name for name, stage in staged if stage == stage_1overf)


@public
def settle(
    exposure: Exposure | None = None,
    *,
    profile: Profile = "jwst",
    steps: StepSettings | None = None,
    pipeline: Mapping[str, Any] | None = None,
    use_pars: bool | None = None,
    pars: Paths | None = None,
) -> tuple[dict[str, Any], RunParameters, list[str]]:
    """Settle the parameters of a run; every way to start a run uses this function.

    The order of precedence is: the user's parameters, the user's parameter files, the parameter files of CRDS, the
    profile, the defaults. The ``recommended`` profile takes precedence over the parameter files of CRDS.

    Parameters
    ----------
    exposure : Exposure, optional
        Without an exposure, the user's settings are checked without CRDS.
    profile, steps, pipeline, use_pars, pars
        As for `plan`.

    Returns
    -------
    parameters : dict
        step -> its parameters (a frozen dataclass).
    run_parameters : RunParameters
        The parameters of the run as a whole.
    pars_files : list of str
        Parameter files that were applied: names of CRDS files, paths of the user's files.

    Raises
    ------
    ParameterError, ReferenceFileError, VersionError
    """
    check_versions()
    steps = copied_steps(steps)
    facts = {} if exposure is None else {"instrument": exposure.facts.instrument, "subarray": exposure.facts.subarray}
    from_crds, run_from_crds, crds_files = {}, {}, []
    if exposure is not None and takes_crds_pars(profile, use_pars):
        from_crds, run_from_crds, crds_files = parameters_from_crds(exposure)
    from_user, run_from_user, user_files = parameters_from_files(pars)
    parameters = resolve(STEPS, profile, from_crds=from_crds, from_files=from_user, steps=steps, **facts)
    run_settings = {**run_from_crds, **RUN_PRESETS.get(profile, {}), **run_from_user, **(pipeline or {})}
    parameters, run_parameters = settle_run(STEPS, parameters, run_settings)
    _check_together(parameters)
    products.check_files_of_results(parameters, run_parameters)
    check_files(STEPS, parameters)
    check_hooks(parameters)
    tell_unused(STEPS, steps)
    return parameters, run_parameters, [*crds_files, *user_files]


@public
def check_request(
    *,
    profile: Profile = "jwst",
    steps: StepSettings | None = None,
    pipeline: Mapping[str, Any] | None = None,
    pars: Paths | None = None,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Check the user's settings before any file is opened, and warn about settings without effect.

    Parameters
    ----------
    profile, steps, pipeline, pars
        As for `plan`.

    Returns
    -------
    steps : dict of dicts
        A copy of the user's settings without those that have no effect: later checks do not warn about them again.
    parameters : dict
        step -> its parameters, without the parameter files of CRDS.
    """
    steps = copied_steps(steps)
    parameters, _run_parameters, _files = settle(profile=profile, steps=steps, pipeline=pipeline, pars=pars)
    return without_comparisons(STEPS, without_unused(STEPS, steps)), parameters


def _check_together(parameters):
    """Refuse parameters that contradict each other, according to the declaration of their step."""
    for name, settings in parameters.items():
        problem = STEPS[name].refuses and not settings.skip and STEPS[name].refuses(settings)
        if problem:
            raise ParameterError(problem)


@public
def plan(
    exposure: Exposure,
    *,
    profile: Profile = "jwst",
    steps: StepSettings | None = None,
    pipeline: Mapping[str, Any] | None = None,
    backend: BackendLike = "auto",
    use_pars: bool | None = None,
    pars: Paths | None = None,
    only: str | None = None,
) -> Run:
    """Settle the parameters and look up the references of an exposure, before any step runs.

    Parameters
    ----------
    exposure : Exposure
    profile : {'jwst', 'spaceklip', 'recommended'}
        The set of defaults.
    steps : dict of dicts, optional
        step -> parameter -> value.
    pipeline : dict, optional
        Parameters of the run as a whole: save_calibrated_ramp, stage_1overf, ...
    backend : str or Backend, optional
        See `gpucoron.backends.get_backend`; None is 'auto'.
    use_pars : bool, optional
        Apply the parameter files of CRDS. The default is true in the ``jwst`` and ``recommended`` profiles, unless the
        environment variable STPIPE_DISABLE_CRDS_STEPPARS switches them off.
    pars : str, Path or sequence of them, optional
        Your own parameter files, of a step or of a pipeline. They take precedence over CRDS; ``steps`` takes
        precedence over them.
    only : str, optional
        Run only this step, even if the instrument's order does not include it.

    Returns
    -------
    Run

    Raises
    ------
    ParameterError, ReferenceFileError, BackendUnavailableError, VersionError
    """
    backend = get_backend(backend)
    context = crds_context()
    parameters, run_parameters, pars_files = settle(
        exposure, profile=profile, steps=steps, pipeline=pipeline, use_pars=use_pars, pars=pars
    )
    order = (only,) if only else order_of(exposure.facts, run_parameters.stage_1overf)
    if only is None:
        of_order = {name: parameters[name] for name in order}
        tell_unused_of_skipped(STEPS, of_order, pipeline or {}, steps or {}, exposure.name)
    for name in STEPS.keys() - set(order):
        if parameters[name].pre_hooks or parameters[name].post_hooks:
            log.warning("%s: hooks of %s: not run, this instrument has no such step", exposure.name, name)
    reftypes: list[str] = []
    overrides: dict[str, Any] = {}
    latest: dict[str, Any] = {}
    for name in order:
        step, settings = STEPS[name], parameters[name]
        if settings.skip:
            continue
        reftypes += step.indirect(settings, exposure.facts)
        for reftype in step.references_of(settings, exposure.facts):
            override = getattr(settings, f"override_{reftype}")
            if step.custom and override is None:
                # a custom step uses the same file as the jwst step before it
                override = latest.get(reftype)
            if override is None:
                reftypes.append(reftype)
            else:
                overrides[f"{name}.{reftype}"] = latest[reftype] = override
    references = find_references(exposure, reftypes, overrides)
    check_indirect([STEPS[name] for name in order], parameters, references, exposure)
    return Run(
        exposure=exposure,
        backend=backend,
        profile=profile,
        parameters=parameters,
        run_parameters=run_parameters,
        references=references,
        pars_files=pars_files,
        context=context,
        order=order,
        log_lines=logs.lines_so_far(),
    )


@public
def run_steps(
    run: Run,
    *,
    until: str | None = None,
    before_step: Callable[[Run, str], object] | None = None,
    after_step: Callable[[Run, StepRecord], object] | None = None,
    store: Any = None,
) -> Run:
    """Run the steps of a plan on its exposure, in place.

    Parameters
    ----------
    run : Run
    until : str, optional
        Stop before this step.
    before_step, after_step : callable, optional
        Called as ``before_step(run, name)`` and ``after_step(run, record)`` around each step of ``run.order``.
    store : ReferenceStore, optional
        Cache of references; by default that of the process.

    Returns
    -------
    Run
        The same run, with its records.
    """
    exposure = run.exposure
    backend = exposure.settle_on(run.backend)
    if backend is not run.backend:
        log.warning("%s: %s", exposure.name, backend.remark)
        run.backend = backend
    references = load_references(exposure, run.references, backend, store)
    active = [name for name in run.order if not run.parameters[name].skip]
    scratch = [STEPS[name].scratch_bytes(run.parameters[name], run.run_parameters) for name in active]
    backend.settle(exposure.data.shape, scratch_bytes=max(scratch, default=0))
    settings = read_files([STEPS[name] for name in run.order], run.parameters, exposure)
    logs.log_run(run)
    _run_each(run, references, settings, until, before_step, after_step)
    for write in run.after_steps:
        write()
    return run


def run_or_start_again(start, backend, *, before_step=None, after_step=None):
    """Run the steps of an exposure; if its device runs out of memory, start again and process blocks of rows.

    Parameters
    ----------
    start : callable
        ``start(backend)`` reads the exposure and returns its `Run`. It is called again to start again, because steps
        work in place and cannot be repeated on the same arrays.
    backend : Backend
    before_step, after_step : callable, optional
        As for `run_steps`; called again for the repeated steps.

    Returns
    -------
    Run
    """
    check_versions()  # before any file is read
    start_time, run = time.perf_counter(), None
    try:
        run = start(backend)
        return run_steps(run, before_step=before_step, after_step=after_step)
    except Exception as error:
        is_in_chunks = run is not None and run.backend is not backend
        if backend.on_host or is_in_chunks or not backend.is_out_of_memory(error):
            raise
        reason = str(error)
    # Free the arrays only here: the exception holds references to them.
    del run
    STORE.clear()
    gc.collect()
    backend.release_memory()
    limit = backend.memory_limit()
    if limit is None:
        msg = f"backend {backend.name!r} is out of memory, and its size is unknown ({reason}); set max_memory"
        raise MemoryError(msg)
    log.warning(
        "out of device memory after %.1f s (%s): the exposure is reduced again, in chunks of rows",
        time.perf_counter() - start_time, reason,
    )  # fmt: skip
    return run_steps(start(backend.in_chunks(limit)), before_step=before_step, after_step=after_step)


def _run_each(run, references, settings, until, before_step, after_step):
    backend, marks = run.backend, []
    for name in run.order:
        if name == until:
            break
        if before_step is not None:
            before_step(run, name)
        backend.take_workers()
        start, start_time = backend.mark(), time.perf_counter()
        logs.log_start(run, STEPS[name])
        outcome = _run_with_hooks(STEPS[name], run, references, settings.get(name))
        seconds, workers = time.perf_counter() - start_time, backend.take_workers()
        workers = tuple(workers) if outcome.status == "COMPLETE" else ()
        record = StepRecord(name, outcome.status, seconds, outcome.reason, dict(outcome.flagged), workers)
        run.records.append(record)
        marks.append((record, start, backend.mark()))
        logs.log_end(record, is_timed=not backend.works_later)
        if after_step is not None:
            after_step(run, record)
    if backend.works_later and marks:
        _wait_for_times(run, marks)


def _wait_for_times(run, marks):
    """Wait for the device once, after all steps, and enter how long it worked on each."""
    last = marks[-1][0].name
    late = {"passed_on": run.backend.is_out_of_memory, "late": run.backend.is_late_error}
    with converted_errors(run.exposure.name, last, **late):
        run.backend.synchronize()
        for record, start, stop in marks:
            record.seconds = run.backend.seconds_between(start, stop)
    logs.log_times([record for record, _, _ in marks])


def _run_with_hooks(step, run, references, settings):
    """Run a step between its hooks. The hooks also run if the step is switched off (``settings`` is None)."""
    run_hooks(run, step, "pre")
    outcome = skipped("switched off") if settings is None else _run_one(step, run, references, settings)
    products.note_step(run, step, outcome)
    run_hooks(run, step, "post")
    return outcome


def _run_one(step, run, references, settings):
    """Run a step; its errors name the file, the step and the references."""
    exposure = run.exposure
    reftypes = (*step.references, *step.indirect(settings, exposure.facts))
    usable = {reftype: references.get(f"{step.name}.{reftype}", references.get(reftype)) for reftype in reftypes}
    helpers = {name: _HELPERS[name](run, step) for name in step.helpers}
    files = ", ".join(str(reference.path) for reference in usable.values() if reference is not None)
    advice = f" (references: {files})" if files else ""
    late = {"passed_on": run.backend.is_out_of_memory, "late": run.backend.is_late_error}
    with converted_errors(exposure.name, step.name, advice=advice, **late):
        return run_step(step.name, exposure, usable, settings, run.backend, **helpers)


def _make_fit(run, step):
    """Make ``fit(exposure, references)``: the fit of the run (for a single step: ramp_fit), without extra products."""

    def fit(exposure, references):
        fits = [name for name in run.order if STEPS[name].fits and not run.parameters[name].skip]
        usual = [name for name, each in STEPS.items() if each.fits and not each.skipped]
        name = (fits or usual)[0]
        settings = run.parameters[name]
        if "save_opt" in STEPS[name].known:
            settings = replace(settings, save_opt=False)
        return run_step(name, exposure, references, settings, run.backend)

    return fit


#: name of a helper that a step may declare -> ``make(run, step)``, which makes it
_HELPERS = {
    "stage": lambda run, step: run.run_parameters.stage_1overf,
    "start_times": lambda run, step: partial(start_times, run.exposure),
    "save_persistence": lambda run, step: partial(write_later, run, run.parameters[step.name]),
    "fit": _make_fit,
    "replaced": lambda run, step: {name: run.parameters[name] for name in step.replaces},
}


@public
@logs.recorded()
def reduce_file(
    path: AnyPath,
    output_dir: AnyPath,
    *,
    profile: Profile = "jwst",
    steps: StepSettings | None = None,
    backend: BackendLike = "auto",
    overwrite: bool = False,
    save_results: bool = True,
    use_pars: bool | None = None,
    pars: Paths | None = None,
    before_step: Callable[[Run, str], object] | None = None,
    after_step: Callable[[Run, StepRecord], object] | None = None,
    max_memory: int | str | None = None,
    **run_parameters: Any,
) -> tuple[Run, dict[str, Any], dict[str, Path]]:
    """Reduce one file: read it, run stage 1, write ``rate`` and ``rateints``.

    Parameters
    ----------
    path : str or Path
        ``*_uncal.fits`` or ``*_ramp.fits``.
    output_dir : str or Path
        Created if it does not exist.
    profile : {'jwst', 'spaceklip', 'recommended'}
        The set of defaults.
    steps : dict of dicts, optional
        step -> parameter -> value. Not changed.
    backend : str or Backend, optional
        See `gpucoron.backends.get_backend`; None is 'auto'.
    overwrite : bool
        Replace existing products.
    save_results : bool
        If false, write nothing.
    use_pars, pars
        Parameter files of CRDS, and your own: see `plan`.
    before_step, after_step : callable, optional
        Called as ``before_step(run, name)`` and ``after_step(run, record)`` around each step of ``run.order``.
    max_memory : int or str, optional
        Limit in bytes, or text such as '4G', on the anonymous memory of the process (CPU backend) or on the memory of
        the exposure on its device. The default is the free memory. Larger exposures are processed in chunks of rows,
        on the CPU from a scratch file in the output folder; docs/performance.md describes how closely the limit is
        kept. Not accepted together with a Backend, which has its own limit.
    **run_parameters
        Parameters of the run as a whole: save_calibrated_ramp, save_intermediates, stage_1overf, rate_int_outliers.

    Returns
    -------
    run : Run
    models : dict
        'rate' and 'rateints' -> model, or None if no ramp could be fitted.
    paths : dict
        Stem of the file name -> path of each written file.

    Raises
    ------
    GpucoronError
        Neither rate nor rateints was written.
    """
    path = check_path(path)
    if save_results:
        check_is_path(output_dir)
    steps, _parameters = check_request(profile=profile, steps=steps, pipeline=run_parameters, pars=pars)
    scratch = {"scratch_dir": output_dir} if save_results and isinstance(check_backend(backend), str) else {}
    backend = get_backend(backend, max_memory=max_memory, **scratch)
    if save_results:
        expected = [products.product_path(path, output_dir, suffix) for suffix in ("rate", "rateints")]
        products.prepare_output(output_dir, expected, overwrite, path)
    request = {"profile": profile, "steps": steps, "pipeline": run_parameters, "use_pars": use_pars, "pars": pars}
    with converted_errors(path, late=backend.is_late_error), backend.own_stream():
        return _reduce(path, output_dir, request, backend, save_results, overwrite, before_step, after_step)


def _reduce(path, output_dir, request, backend, save_results, overwrite, before_step, after_step):
    """Reduce a file whose settings were checked; ``request`` holds the keywords of `plan`."""

    def start(backend):
        start_time = time.perf_counter()
        exposure = Exposure.read(path, backend)
        read_time = time.perf_counter()
        run = plan(exposure, backend=backend, **request)
        run.phases = {"read": read_time - start_time, "plan": time.perf_counter() - read_time}
        run.output_dir = Path(output_dir)
        logs.log_parameters(run)
        if save_results and not paths:  # nothing was written yet: a run that starts again replaces its own products
            products.check_products(run, extra_at, overwrite=overwrite)
        return run

    def extra_at(extra):
        return products.spare_input(products.extra_path(extra, path, output_dir), path)

    paths = {}
    save = products.saving_extras(extra_at if save_results else None, after_step, paths)
    run = run_or_start_again(start, backend, before_step=before_step, after_step=save)
    end_of_steps = time.perf_counter()
    models = {"rate": products.rate_model(run), "rateints": products.rateints_model(run)}
    if not run.fits:
        # as in jwst, the ramp is the product if there is no fit
        models["ramp"] = products.ramp_model(run)
    not_empty = {suffix: model for suffix, model in models.items() if model is not None}
    if save_results and not_empty:
        to_write = {extra_at(products.Extra(kind, suffix=kind)): model for kind, model in not_empty.items()}
        products.save(to_write, overwrite=overwrite)
        paths.update({path.stem: path for path in to_write})
    run.phases["write"] = time.perf_counter() - end_of_steps
    return run, models, paths
