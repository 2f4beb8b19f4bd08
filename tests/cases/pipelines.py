"""Run jwst and gpucoron step by step and return their results in the same form, for the parity tests."""

import gc
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from unittest.mock import patch

import numpy as np

RAMP_ARRAYS = ("data", "groupdq", "pixeldq", "zeroframe")
SLOPE_ARRAYS = ("data", "dq", "err", "var_poisson", "var_rnoise")


@dataclass
class Snapshots:
    """Copies of the arrays after each step, and the products."""

    ramps: dict = field(default_factory=dict)
    rate: object = None
    rateints: object = None
    keywords: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)
    last_scaled: object = None


@cache
def remember_schemas():
    """Cache the schemas that asdf has parsed; parsing them repeatedly takes half of the time of a small case.

    As in `gpucoron.io.kept`, a schema with another text is parsed again.
    """
    from asdf import get_config, schema

    make_loader, kept = getattr(schema, "_make_schema_loader", None), {}
    if make_loader is None:
        return  # a version of asdf without this function

    def make():
        load = make_loader()

        def load_once(url):
            resources = get_config().resource_manager
            key = url, resources.get(url)
            if key not in kept:
                kept[key] = load(url)
            return kept[key]

        return load_once

    schema._make_schema_loader = make


def run_jwst(path, steps=None, *, start="call", save_results=False, **options):
    """Run jwst's Detector1Pipeline and copy the ramp after every step; `options` are parameters of the pipeline.

    ``start`` is 'call', which applies CRDS parameter files, or 'run' of an instance, which does not.
    """
    from jwst.pipeline import Detector1Pipeline

    remember_schemas()
    seen = Snapshots()

    def listen_to(name, step_class):
        original = step_class.run

        def run(self, *args):
            result = original(self, *args)
            if name == "gain_scale" and result.data.ndim == 4:
                return result  # no ramp was fitted
            if name == "gain_scale":
                product = "rateints" if result.data.ndim == 3 else "rate"
                setattr(seen, product, _slopes(result))
                seen.keywords[product], seen.tables[product] = keywords_of(result), tables_of(result)
                seen.last_scaled = result.data
            elif name != "ramp_fit":
                seen.ramps[name] = {key: _copy(getattr(result, key)) for key in RAMP_ARRAYS}
            return result

        return patch.object(step_class, "run", run)

    with ExitStack() as stack:
        for name, step_class in Detector1Pipeline.step_defs.items():
            stack.enter_context(listen_to(name, step_class))
        # every step of jwst runs the garbage collector: half of the time of a small case, unless old objects are frozen
        gc.freeze()
        stack.callback(gc.unfreeze)
        options = {"steps": steps or {}, "save_results": save_results, **options}
        if start == "call":
            seen.model = Detector1Pipeline.call(_open(path), **options)
        else:
            seen.model = Detector1Pipeline(**options).run(_open(path))
    return seen


def keywords_of(model):
    """Return the header of a model by dotted names."""
    return {name: value for name, value in model.to_flat_dict(include_arrays=False).items() if value is not None}


def tables_of(model):
    """Return the rows of a model's tables, by name."""
    names = [name for name in ("int_times", "group") if model.hasattr(name)]
    return {name: np.array(getattr(model, name)).tolist() for name in names}


def _open(path):
    """Open a ramp file; convert ZEROFRAME to native byte order, because stcal 1.20 does not swap it and misreads it."""
    if not path.name.endswith("_ramp.fits"):
        return str(path)
    from stdatamodels.jwst.datamodels import RampModel

    model = RampModel(path)
    if model.hasattr("zeroframe"):
        model.zeroframe = model.zeroframe.astype(np.float32)
    return model


def run_ours(path, steps=None, backend="cpu", output_dir=None, **options):
    """Run gpucoron's engine on the same file, and return the same results."""
    from gpucoron.engine import plan, run_steps
    from gpucoron.io import products
    from gpucoron.io.exposure import Exposure

    remember_schemas()
    seen = Snapshots()

    def keep(run, record):
        if record.name not in ("ramp_fit", "gain_scale"):
            to_host = run.backend.to_host
            arrays = {key: getattr(run.exposure, key) for key in RAMP_ARRAYS}
            seen.ramps[record.name] = {
                key: None if value is None else _copy(to_host(value)) for key, value in arrays.items()
            }

    run = plan(Exposure.read(path), steps=steps, backend=backend, **options)
    run.output_dir = output_dir
    path_of = None if output_dir is None else lambda extra: products.extra_path(extra, path, output_dir)
    run_steps(run, after_step=products.saving_extras(path_of, keep))
    seen.run = run
    for name, model in (("rate", products.rate_model(run)), ("rateints", products.rateints_model(run))):
        if model is not None:
            setattr(seen, name, _slopes(model))
            setattr(seen, f"{name}_model", model)
    return seen


def _slopes(model):
    return {key: _copy(getattr(model, key)) for key in SLOPE_ARRAYS}


def _copy(array):
    return None if array is None else np.array(array)


def assert_same_values(ours, theirs, rtol, name):
    """Compare floats: equal positions of NaN, and values within rtol of jwst's."""
    assert ours.dtype == theirs.dtype, name
    assert ours.shape == theirs.shape, name
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), err_msg=f"{name}: NaN")
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=0, equal_nan=True, err_msg=name)


def assert_same_flags(ours, theirs, name):
    """Compare flags bit for bit."""
    np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}: flags")
