"""Names of backends and memory limits have the same meaning and the same error message everywhere."""

import numpy as np
import pytest

import gpucoron
from gpucoron import batch, cli
from gpucoron.backends import BACKENDS, CHOICES, backend_status, get_backend, options_of
from gpucoron.backends.sizes import memory_size
from gpucoron.coron1pipeline import run_obs, run_single_file
from gpucoron.engine import reduce_file
from gpucoron.errors import ArgumentError, BackendUnavailableError, ParameterError

SIZES = {
    "4G": 4 * 10**9, "4GB": 4 * 10**9, "4 GiB": 4 * 2**30, "500M": 5 * 10**8, "2.5g": 25 * 10**8, "4e9": 4 * 10**9,
    "512 KiB": 2**19, "1T": 10**12, "100 bytes": 100, "7": 7, 4e9: 4 * 10**9, np.int64(5): 5, np.float32(8): 8, 3: 3,
}  # fmt: skip
NO_SIZES = (
    0,
    -1,
    0.5,
    float("nan"),
    float("inf"),
    "lots",
    "",
    "4 X",
    "G",
    "-4G",
    "0",
    True,
    np.True_,
    b"4G",
    [4],
    "1e30",
)


@pytest.mark.parametrize("size", SIZES)
def test_sizes(size):
    assert memory_size(size) == SIZES[size]
    assert type(memory_size(size)) is int


@pytest.mark.parametrize("size", NO_SIZES)
def test_invalid_memory_sizes(size):
    for error in (ParameterError, ValueError):
        with pytest.raises(
            error, match="^max_memory: expected a size such as '4G', .* a positive number of bytes, got"
        ):
            memory_size(size)
    with pytest.raises(ArgumentError, match="^max_memory: expected a size"):
        get_backend("cpu", max_memory=size)


def test_no_size_is_no_limit():
    assert memory_size(None) is None
    assert get_backend("numpy", max_memory=None).device.max_memory is None
    assert get_backend("numpy", max_memory="4 GiB").device.max_memory == 2**32


# ------------------------------------------------------------------------------------------------- options and names


@pytest.mark.parametrize("name", [*CHOICES, *BACKENDS])
def test_unknown_options_are_refused_by_name(name):
    every = {option for kind in BACKENDS.values() for option in kind.options}
    for option in every - set(options_of(name)):
        owner = next(each for each, kind in BACKENDS.items() if option in kind.options)
        with pytest.raises(
            ParameterError, match=f"get_backend: backend '{name}' has no option {option}, .*{owner}.*; known"
        ):
            get_backend(name, **{option: 1})
    with pytest.raises(TypeError, match=f"backend '{name}' has no option threads; known"):
        get_backend(name, threads=1)


@pytest.mark.parametrize("value", [0, -2, 1.5, "two", True])
def test_numbers_of_threads(value):
    with pytest.raises(ArgumentError, match="n_threads: expected a whole number, 1 or more"):
        get_backend("cpu", n_threads=value)


@pytest.mark.parametrize("value", [-1, 0.5, "first", False])
def test_numbers_of_devices(value):
    with pytest.raises(ArgumentError, match="device: expected a whole number, 0 or more"):
        get_backend("cuda", device=value)


@pytest.mark.parametrize("value", [0, -5, 0.5, "x", True])
def test_tiles(value):
    with pytest.raises(ArgumentError, match="^tile_bytes: expected a whole number, 1 or more"):
        get_backend("numpy", tile_bytes=value)
    with pytest.raises(ArgumentError, match="^lanes: expected a whole number, 1 or more"):
        get_backend("host", lanes=value)


@pytest.mark.parametrize("value", [5, 0.5, True, b"folder"])
def test_options_of_another_kind_are_refused_by_name(value):
    """No device is needed, because the options are checked first."""
    for name, option, expected in (
        ("cpu", "scratch_dir", "the path of a folder"),
        ("auto", "cupy", "a module like CuPy"),
        ("cuda", "cupy", "a module like CuPy"),
        ("host", "sanitize", "names of sanitizers"),
        ("cuda", "defines", "a list of definitions"),
    ):
        with pytest.raises(ArgumentError, match=f"^{option}: expected {expected}"):
            get_backend(name, **{option: value})


def test_paths_of_both_kinds_are_folders(tmp_path):
    for folder in (tmp_path, str(tmp_path)):
        assert get_backend("numpy", scratch_dir=folder).device.scratch_dir == folder


def test_the_function_is_named_where_its_backend_cannot_be():
    from gpucoron.steps.superbias import subtract_superbias

    data = np.ones((1, 1, 2, 2), np.float32)
    with pytest.raises(
        BackendUnavailableError, match="^superbias.subtract_superbias: there is no backend 'tpu'; known"
    ):
        subtract_superbias(data, 1.0, backend="tpu")
    if not backend_status()["cuda"][0]:
        message = "^superbias.subtract_superbias: backend 'cuda' cannot run here: .*; use backend='cpu'$"
        with pytest.raises(BackendUnavailableError, match=message):
            subtract_superbias(data, 1.0, backend="cuda")
    assert (data == 1).all()


def test_a_choice_ignores_options_of_its_other_backends(caplog):
    with caplog.at_level("INFO"):
        backend = get_backend("auto", device=0, n_threads=1)
    unused = {"device", "n_threads"} - set(BACKENDS[backend.name].options)
    assert f"backend '{backend.name}' ignores {', '.join(unused)}" in caplog.text


def test_none_is_auto_and_a_backend_is_itself():
    assert get_backend(None).name == get_backend("auto").name
    backend = get_backend("numpy")
    assert get_backend(backend) is backend
    assert get_backend(backend, max_memory=None) is backend
    with pytest.raises(ArgumentError, match="n_threads: a Backend already has its options"):
        get_backend(backend, n_threads=2)


@pytest.mark.parametrize("name", ["numpy", "cpu"])
def test_answers_come_home_together(name):
    """All arrays in tuples and slopes are copied to the host; None and numbers are unchanged."""
    from gpucoron.steps.ramp_fit import fit

    data = 20.0 * np.arange(1, 7)[:, None, None] + np.zeros((2, 6, 2, 2))
    backend = get_backend(name)
    rate, rateints = backend.to_host(fit(data, np.zeros(data.shape, np.uint8), 0, 2.0, 10.0, 4.0, backend=backend))
    assert isinstance(rate.rate, np.ndarray) and rateints.rate.shape == (2, 2, 2)


# ----------------------------------------------------------------------------------------------------------- all coats


@pytest.fixture(scope="module")
def nircam(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(32, 40))


COATS = {
    "reduce_file": lambda path, out, **options: reduce_file(path, out, **options),
    "run_single_file": lambda path, out, **options: run_single_file(path, out, **options),
    "run_obs": lambda path, out, **options: run_obs({}, output_dir=out, **options),
    "batch": lambda path, out, **options: list(batch.reduce(path, out, **options)),
}


@pytest.mark.parametrize("coat", COATS)
def test_invalid_backends_and_sizes_are_refused_at_once(coat, nircam, tmp_path):
    out = tmp_path / "out"
    with nircam.cache.activate():
        for options, error, message in (
            ({"backend": 5}, ParameterError, "backend: expected one of auto, cpu, numpy"),
            ({"backend": "tpu"}, BackendUnavailableError, "no backend 'tpu'; known: auto, cpu"),
            ({"max_memory": 0}, ParameterError, "max_memory: expected a size such as '4G'"),
            ({"max_memory": "lots"}, ValueError, "max_memory: expected a size such as '4G'"),
        ):
            with pytest.raises(error, match=message):
                COATS[coat](nircam.path, out, **options)
    assert not out.exists()


@pytest.mark.parametrize("coat", ["reduce_file", "run_single_file", "batch"])
def test_none_is_auto_and_texts_are_sizes_everywhere(coat, nircam, tmp_path):
    with nircam.cache.activate():
        COATS[coat](nircam.path, tmp_path, backend=None, max_memory="4 GiB")
    assert list(tmp_path.glob("*_rate.fits"))


def test_a_small_limit_given_as_text_counts(nircam, tmp_path, caplog):
    with nircam.cache.activate():
        run, _, _ = reduce_file(nircam.path, tmp_path, backend="numpy", max_memory="10M")
        assert run.backend.is_in_chunks
        assert run.backend.home.max_memory == 10_000_000
        run_single_file(nircam.path, tmp_path / "b", backend="numpy", max_memory="10M")
    assert caplog.text.count("max_memory (--max-memory) is 10 MB") == 2


def test_a_backend_has_its_own_memory(nircam, tmp_path):
    with nircam.cache.activate(), pytest.raises(ParameterError, match="max_memory: a Backend already has its options"):
        reduce_file(nircam.path, tmp_path, backend=get_backend("numpy"), max_memory="4G")


def test_a_batch_takes_backends_by_name(nircam, tmp_path):
    with (
        nircam.cache.activate(),
        pytest.raises(ParameterError, match="backend: other processes need the name of a backend"),
    ):
        batch.reduce(nircam.path, tmp_path, backend=get_backend("numpy"))


def test_the_pipeline_takes_sizes(nircam, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    with nircam.cache.activate():
        for size in ("10M", 10_000_000):
            gpucoron.Coron1Pipeline.call(str(nircam.path), backend="numpy", max_memory=size)
        with pytest.raises(ParameterError, match="max_memory: expected a size"):
            gpucoron.Coron1Pipeline.call(str(nircam.path), max_memory="lots")
    assert caplog.text.count("max_memory (--max-memory) is 10 MB") == 2


@pytest.mark.parametrize("command", ["run", "batch"])
def test_the_command_line_has_the_same_message(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "x_uncal.fits", "-o", "out", "--max-memory", "lots"])
    assert stopped.value.code == 2
    assert (
        "expected a size such as '4G', '500M', '4 GiB' or a positive number of bytes, got 'lots'"
        in capsys.readouterr().err
    )


def test_status_knows_every_backend():
    assert set(backend_status()) == {"cpu", *BACKENDS}
