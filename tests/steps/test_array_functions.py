"""The array functions of the steps: any backend, all kinds of arrays, errors by name; the API page.

They are found by importing the modules (`tests.cases.arrays`), so that new ones are tested automatically.
"""

import contextlib
import inspect
import io
import re
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import backend_status, get_backend
from gpucoron.errors import ArgumentError, ParameterError
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import STEPS, ipc, linearity, saturation
from gpucoron.steps.arguments import Array, Images
from tests.cases.arrays import FUNCTIONS, call, flat, functions, make_arguments, make_arrays
from tests.cases.paths import ROOT

PAGE = ROOT / "docs" / "api.md"
ARRAYS = [
    (name, key)
    for name, function in FUNCTIONS.items()
    for key, kind in function.declared.items()
    if type(kind) is Array
]
GIVEN = [(name, key) for name, key in ARRAYS if key in make_arguments(name)]
REFERENCE = get_backend("numpy", n_threads=1)


def results(name, arguments, **options):
    """Call a function; return its result in parts, and its changed arrays."""
    answer = flat(call(name, arguments, **options))
    return answer + [value for value in arguments.values() if isinstance(value, np.ndarray)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, np.ndarray):
            np.testing.assert_array_equal(ours, theirs)
            assert type(ours) is type(theirs)
        else:
            assert ours == theirs


def is_changed(name, key, arguments):
    kind = FUNCTIONS[name].declared[key]
    return bool(kind.in_place) and (kind.in_place is True or bool(arguments.get(kind.in_place)))


# --------------------------------------------------------------------------------------------------- what there is


def test_every_step_has_one():
    assert {name.partition(".")[0] for name in FUNCTIONS} >= set(STEPS)


def test_every_function_of_arrays_takes_a_backend():
    """Every function with an argument that is an array elsewhere accepts it as an array, and a backend."""
    names = {key for _, key in ARRAYS} | {"rate", "rateints", "slopes"}
    signatures = {name: inspect.signature(function).parameters for name, function in functions().items()}
    of_arrays = {name for name, parameters in signatures.items() if names & set(parameters)}
    # In these functions the threshold is a percentage.
    of_arrays -= {"group_matching.choose_groups_advanced", "group_matching.prepare_masks"}
    # This function checks the parameters of a step, before any array is on a device.
    of_arrays -= {"known_sources.check_sources"}
    assert of_arrays == set(FUNCTIONS)
    assert all(signatures[name]["backend"].default is None for name in FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_say_what_is_changed(name):
    function = FUNCTIONS[name]
    changes = any(getattr(kind, "in_place", False) for kind in function.declared.values())
    assert changes == ("in place" in function.__doc__.lower().replace("\n    ", " ")), function.__doc__


def test_arrays_of_one_name_are_of_one_kind():
    """``data`` is float32 wherever it is a ramp; flags have jwst's dtypes."""
    kinds = {}
    for name, key in ARRAYS:
        kind = FUNCTIONS[name].declared[key]
        # A mask is jwst's reference of this name in dq_init, and boolean elsewhere.
        if kind.dtype != "real" and "..." not in kind.axes and key != "mask":
            kinds.setdefault((key, kind.axes), set()).add(kind.dtype)
    assert {key: dtypes for key, dtypes in kinds.items() if len(dtypes) > 1} == {}


# ------------------------------------------------------------------------------------------------------- backends


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_backend_gives_the_same_bits(name):
    expected = results(name, make_arguments(name), backend=REFERENCE)
    choices = [None, "numpy", "cpu", get_backend("cpu", n_threads=2)]
    choices += ["native"] if backend_status()["native"][0] else []
    for backend in choices:
        assert_same(results(name, make_arguments(name), backend=backend), expected)
    assert_same(results(name, make_arguments(name)), expected)


@pytest.mark.parametrize("backend", [5, 2.0, object(), ["cpu"]])
def test_invalid_backends_are_refused(backend):
    with pytest.raises(ParameterError, match="^jump.flag_jumps: backend: expected one of auto, .* a Backend or None"):
        call("jump.flag_jumps", make_arguments("jump.flag_jumps"), backend=backend)


def test_old_calls_with_a_namespace_still_work():
    arguments = make_arguments("superbias.subtract_superbias")
    expected = results("superbias.subtract_superbias", make_arguments("superbias.subtract_superbias"))
    with pytest.warns(DeprecationWarning, match="xp is no longer needed"):
        assert_same(results("superbias.subtract_superbias", arguments, xp=np), expected)
    arrays = make_arrays()
    with pytest.warns(DeprecationWarning, match="namespace is no longer needed"):
        FUNCTIONS["likelihood.summarise_flags"](arrays["groupdq"], arrays["pixeldq"], np)


# -------------------------------------------------------------------------------------------- arrays as users have them


def as_big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def as_wider(array):
    return array.astype({"f": np.float64, "u": np.int64, "b": np.uint8}[array.dtype.kind])


def with_gaps(array):
    made = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    made[...] = array
    return made


def keeps_its_precision(name, key):
    """Return whether a function calculates in the precision of the array that it is given."""
    return FUNCTIONS[name].declared[key].dtype in ("float", "real")


CHANGES = [
    (name, key, change)
    for change in (as_big_endian, as_wider, with_gaps, np.asfortranarray)
    for name, key in GIVEN
    if not (change is as_wider and keeps_its_precision(name, key))
]


@pytest.mark.parametrize(("name", "key", "change"), CHANGES)
def test_dtypes_and_layouts_do_not_matter(name, key, change):
    """FITS is big-endian, flags may be any integers: the result is that of plain arrays, also in place."""
    expected = results(name, make_arguments(name))
    arguments = make_arguments(name)
    arguments[key] = change(arguments[key])
    found = results(name, arguments)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("name", "key"), GIVEN)
def test_inputs_stay_unless_they_are_changed_in_place(name, key):
    arguments = make_arguments(name)
    before = np.array(arguments[key])
    arguments[key].flags.writeable = False
    if is_changed(name, key, arguments):
        with pytest.raises(ArgumentError, match=f"{name}: {key}: is read-only"):
            call(name, arguments)
    else:
        expected = results(name, make_arguments(name))
        for ours, theirs in zip(results(name, arguments), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(arguments[key], before)


@pytest.mark.parametrize(("name", "key"), GIVEN)
def test_lists_are_taken_where_nothing_is_changed_in_place(name, key):
    arguments = make_arguments(name)
    arguments[key] = arguments[key].tolist()
    if is_changed(name, key, arguments):
        with pytest.raises(ArgumentError, match=f"{name}: {key}: expected an array, because it is changed in place"):
            call(name, arguments)
        return
    plain = make_arguments(name)
    if plain[key].dtype.kind == "f" and FUNCTIONS[name].declared[key].dtype in ("float", "real"):
        plain[key] = plain[key].astype(np.float64)  # as for lists
    others = [each for each, value in plain.items() if isinstance(value, np.ndarray) and each != key]
    expected, found = flat(call(name, plain)), flat(call(name, arguments))
    expected, found = ([*answer, *map(of.get, others)] for answer, of in ((expected, plain), (found, arguments)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("name", "key"), GIVEN)
def test_invalid_arguments_are_refused_by_name(name, key):
    from astropy import units

    plain, kind = make_arguments(name)[key], FUNCTIONS[name].declared[key]
    for given, message in (
        (plain.astype(float) * units.m, "has a unit, m; give its value" + (f" in {kind.unit}" if kind.unit else "")),
        (np.ma.masked_array(plain), "is a masked array"),
        (plain.astype(complex), "expected .*, got complex128"),
        (plain.astype(object), "expected .*, got object"),
        (plain.astype(str), "expected .*, got <U"),
        ("a text", "expected an array.*, got str"),
        (plain[..., :0], "is empty|expected"),
        (np.zeros((2, 3, 4, 5, 6), plain.dtype), "expected \\(|is empty"),
    ):
        if "expected \\(" in message and "..." in kind.axes:
            continue
        arguments = make_arguments(name)
        arguments[key] = given
        with pytest.raises(ArgumentError, match=f"^{re.escape(name)}: {key}: ({message})"):
            call(name, arguments)


def test_the_issues_own_message():
    arguments = make_arguments("jump.flag_jumps")
    arguments["gain"] = np.ones((8, 8), np.float32)
    message = "jump.flag_jumps: gain: expected (ny, nx) = (16, 20) or a scalar, got (8, 8)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call("jump.flag_jumps", arguments)


def test_the_function_that_was_called_is_named_not_one_inside():
    arguments = make_arguments("subtract_1overf.noise_of_ramp")
    with pytest.raises(
        ArgumentError,
        match="^subtract_1overf.noise_of_ramp: model_type: expected one of savgol, median, mean, fft, got .spline.",
    ):
        call("subtract_1overf.noise_of_ramp", arguments, model_type="spline")
    with pytest.raises(TypeError, match="^jump.flag_jumps: detect_jumps: .*unexpected keyword argument 'sigma'"):
        call("jump.flag_jumps", make_arguments("jump.flag_jumps"), sigma=4)
    with pytest.raises(TypeError, match="^ramp_fit.fit: missing a required argument: 'groupdq'"):
        FUNCTIONS["ramp_fit.fit"](make_arrays()["data"])


def known_axes(name):
    """List the arrays of a function whose axes are all known from the arrays before, and that are not changed."""
    seen = set()
    for key, kind in FUNCTIONS[name].declared.items():
        if not isinstance(kind, Array) or "|" in kind.axes or "..." in kind.axes:
            continue
        if seen and set(kind.axes.split()) <= seen and not kind.in_place:
            yield key
        seen |= set(kind.axes.split())


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name in FUNCTIONS for key in known_axes(name) if (name, key) in GIVEN]
)
def test_a_scalar_is_accepted_for_an_array(name, key):
    arguments, spread = make_arguments(name), make_arguments(name)
    value = arguments[key].reshape(-1)[-1]
    spread[key] = np.full_like(arguments[key], value)
    arguments[key] = value.item()
    expected = flat(call(name, spread))
    assert_same(flat(call(name, arguments)), expected)


def test_leading_axes_of_length_one_may_be_missing_or_too_many():
    arrays = make_arrays()
    flags = arrays["groupdq"][0, 0]
    data = arrays["data"][:1, :1]
    groupdq, pixeldq = saturation.flag_saturated(data, flags, arrays["pixeldq"][None, None], 400.0)
    assert groupdq.shape == data.shape
    assert pixeldq.shape == flags.shape
    image = np.zeros(flags.shape, np.uint8)
    FUNCTIONS["charge_migration.flag_charge_migration"](data, image, 300.0)
    assert image.any()
    with pytest.raises(ArgumentError, match=r"groupdq: expected .* = \(2, 6, 16, 20\), got \(16, 20\)$"):
        FUNCTIONS["charge_migration.flag_charge_migration"](arrays["data"], image, 300.0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float16])
def test_arrays_that_cannot_hold_the_result_are_not_changed_in_place(dtype):
    arguments = make_arguments("superbias.subtract_superbias")
    arguments["data"] = abs(arguments["data"]).astype(dtype)
    with pytest.raises(ArgumentError, match=f"data: is {np.dtype(dtype)} and would be .*; give it as float32"):
        call("superbias.subtract_superbias", arguments)
    # functions that change a copy are excepted
    corrected, _ = linearity.correct_linearity(arguments["data"], 0, 0, make_arrays()["coeffs"])
    assert corrected.dtype == np.float32


def test_one_integration_and_one_group():
    """A function that needs more groups says how many; otherwise one is enough."""
    for name in FUNCTIONS:
        arguments = make_arguments(name)
        ramps = [key for key, value in arguments.items() if getattr(value, "shape", None) == (2, 6, 16, 20)]
        if not ramps or name in ("ipc.deconvolve_ipc", "likelihood.fit_integrations"):
            continue
        for key in ramps:
            arguments[key] = np.ascontiguousarray(arguments[key][:1, :1])
        for key in ("zeroframe", "dark", "start_times"):
            if key in arguments:
                arguments[key] = arguments[key][:1]
        if "mask" in arguments and arguments["mask"].ndim == 4:
            arguments["mask"] = arguments["mask"][:, :1]
        try:
            call(name, arguments)
        except ArgumentError as error:
            assert re.match(rf"{re.escape(name)}: .*(groups|differences)", str(error)), (name, error)


# ---------------------------------------------------------------------------------------- beside jwst and the pipeline


def exposure_of(arrays, **more):
    shared = {key: arrays[key].copy() for key in ("data", "groupdq", "pixeldq")}
    facts = Facts("NIRCAM", nframes=2, xstart=1, ystart=1, xsize=20, ysize=16)
    return Exposure(**shared, facts=facts, **more)


@pytest.mark.parity
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("nframes", [None, 2, 4])
def test_saturation_is_stcals_and_the_steps(backend, nframes):
    from stcal.saturation.saturation import flag_saturated_pixels
    from stdatamodels.jwst.datamodels import dqflags

    arrays = make_arrays()
    arrays["threshold"][2, 3] = np.nan
    pattern = None if nframes is None else [[g * nframes + r + 1 for r in range(nframes)] for g in range(6)]
    names = "data", "groupdq", "pixeldq", "threshold", "dq"
    given = [arrays[name] for name in names]
    groupdq, pixeldq = saturation.flag_saturated(*given, superbias=arrays["bias"], nframes=nframes, backend=backend)
    theirs = flag_saturated_pixels(
        *(array.copy() for array in given), 65535, dict(dqflags.pixel), n_pix_grow_sat=1, read_pattern=pattern,
        bias=arrays["bias"],
    )  # fmt: skip
    np.testing.assert_array_equal(groupdq, theirs[0])
    np.testing.assert_array_equal(pixeldq, theirs[1])
    exposure = exposure_of(arrays)
    exposure.facts = replace(exposure.facts, nframes=nframes)
    references = {"saturation": Reference(data=arrays["threshold"], dq=arrays["dq"])}
    references["superbias"] = Reference(data=arrays["bias"])
    saturation.run(exposure, references, saturation.STEP.settings(), get_backend(backend))
    np.testing.assert_array_equal(exposure.groupdq, groupdq)
    np.testing.assert_array_equal(exposure.pixeldq, pixeldq)


@pytest.mark.parity
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("inverse", [False, True])
def test_linearity_is_stcals_and_the_steps(backend, inverse):
    from stcal.linearity.linearity import linearity_correction
    from stdatamodels.jwst.datamodels import dqflags

    arrays = make_arrays()
    given = [arrays[name] for name in ("data", "groupdq", "pixeldq", "coeffs", "dq")]
    options = {"inverse_coeffs": arrays["inverse_coeffs"], "nframes": 2} if inverse else {}
    data, pixeldq = linearity.correct_linearity(*given, **options, backend=backend)
    theirs = {
        "ilin_coeffs": arrays["inverse_coeffs"].copy(),
        "read_pattern": [[2 * g + 1, 2 * g + 2] for g in range(6)],
    }
    expected = linearity_correction(
        *(array.copy() for array in given), dict(dqflags.pixel), **(theirs if inverse else {})
    )
    np.testing.assert_array_equal(data, expected[0])
    np.testing.assert_array_equal(pixeldq, expected[1])
    exposure = exposure_of(arrays)
    reference = Reference(coeffs=arrays["coeffs"], dq=arrays["dq"], inv_coeffs=arrays["inverse_coeffs"])
    exposure.facts = replace(exposure.facts, nframes=2 if inverse else 1)
    linearity.run(exposure, {"linearity": reference}, None, get_backend(backend))
    np.testing.assert_array_equal(exposure.data, data)
    np.testing.assert_array_equal(exposure.pixeldq, pixeldq)


@pytest.mark.parity
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("per_pixel", [False, True])
def test_ipc_is_jwsts_and_the_steps(backend, per_pixel):
    from jwst.ipc.ipc_corr import ipc_convolve

    arrays = make_arrays()
    kernel = arrays["kernel"]
    if per_pixel:
        kernel = kernel[:, :, None, None] * np.linspace(0.9, 1.1, 320, dtype=np.float32).reshape(16, 20)
    edges = ipc.ReferenceEdges(4, 0, 4, 0)
    found = ipc.correct_ipc(arrays["data"], kernel, edges, backend=backend)
    expected = arrays["data"].copy()
    rows_and_columns = {"bottom_rows": 4, "top_rows": 0, "left_columns": 4, "right_columns": 0}
    for frame in expected.reshape(-1, 16, 20):
        ipc_convolve(frame, kernel, SimpleNamespace(**rows_and_columns))
    np.testing.assert_array_equal(found, expected)
    exposure = exposure_of(arrays)
    ipc.run(exposure, {"ipc": Reference(data=kernel)}, None, get_backend(backend))
    np.testing.assert_array_equal(exposure.data, found)


# ------------------------------------------------------------------------------------------------------ the API's page


def blocks():
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks(), ids=[text.split("import ")[-1].splitlines()[0] for text in blocks()])
def test_an_example_prints_what_the_page_says(text):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "example", "exec"), {"__name__": "example"})
    promised = re.findall(r"^ *print\(.*\)  # (.*)$", text, flags=re.MULTILINE)
    assert promised
    assert printed.getvalue().splitlines() == promised


def test_every_function_has_an_example_and_documented_arrays():
    examples = "\n".join(blocks())
    for name, function in FUNCTIONS.items():
        short = name.partition(".")[2]
        assert re.search(rf"\b{short}\(", examples), f"docs/api.md has no example of {name}"
        for key, kind in function.declared.items():
            if isinstance(kind, (Array, Images)):
                assert re.search(rf"^    (\w+, )*{key}\b", function.__doc__, re.MULTILINE), (name, key)


def test_the_page_lists_every_function(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from parameter_tables import write_functions_of_steps

    write_functions_of_steps(tmp_path / "table.md")
    rows = re.findall(r"^\| `(\w+\.\w+)\(([^|]*)\)` \| \w[^|]* \|$", (tmp_path / "table.md").read_text(), re.MULTILINE)
    found = {name: re.findall(r"(?:^|, )\**(\w+)(?==|,|$)", arguments) for name, arguments in rows}
    assert found.keys() == FUNCTIONS.keys()
    for name, function in FUNCTIONS.items():
        assert set(inspect.signature(function).parameters) <= set(found[name]), name


def test_modules_can_be_imported_as_the_page_says():
    for name in FUNCTIONS:
        module, _, short = name.partition(".")
        assert getattr(import_module(f"gpucoron.steps.{module}"), short) is FUNCTIONS[name]
