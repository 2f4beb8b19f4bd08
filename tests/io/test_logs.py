"""The log of a reduction, the part of it in the products, and that other loggers are not affected."""

import logging
import re
import threading

import pytest
from astropy.io import fits
from astropy.table import Table

import gpucoron
from gpucoron import batch
from gpucoron.cli import main
from gpucoron.io import logs

STEPS = {"ramp_fit": {"save_opt": True}}


@pytest.fixture(scope="module", params=["NIRCAM", "MIRI"])
def case(request, exposures):
    arguments = ("SUB320A335R", "SHALLOW4", 5) if request.param == "NIRCAM" else ("MASK1550", "FASTR1", 8)
    return exposures(request.param, *arguments, 2, shape=(32, 40))


@pytest.fixture(scope="module")
def nircam(exposures):
    return exposures("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2, shape=(32, 40))


def log_of(path):
    """Read the log in a product."""
    from stdatamodels.jwst import datamodels

    with datamodels.open(path) as model:
        return list(getattr(model.cal_logs.instance, "data", model.cal_logs.instance)[logs.ALIAS])


@pytest.mark.parity
def test_the_log_has_the_lines_of_jwsts(case, tmp_path, capsys):
    from jwst.pipeline import Detector1Pipeline

    shown, kept = {}, {}
    for pipeline, more in ((Detector1Pipeline, {}), (gpucoron.Coron1Pipeline, {"backend": "cpu"})):
        folder = str(tmp_path / pipeline.__name__)
        with case.cache.activate():
            rate = pipeline.call(str(case.path), steps=STEPS, save_results=True, output_dir=folder, **more)
        shown[pipeline] = capsys.readouterr().err.replace(folder, "out")
        kept[pipeline] = list(rate.cal_logs.instance.values())[0]
    for pattern in (
        r"Step ([a-z]\w+) running",
        r"Using (\w+) reference file:? (\S+)",
        r"Saved model in (\S+)",
        "(Results used CRDS context: .*)",
        "(Results used jwst version: .*)",
    ):
        theirs, ours = (
            {re.sub(".*/", "", str(match)).upper() for match in re.findall(pattern, text)} for text in shown.values()
        )
        assert theirs, pattern
        assert theirs <= ours, pattern  # gpucoron also logs its own steps
    ours = kept[gpucoron.Coron1Pipeline]
    assert any("parameters are:" in line and "rejection_threshold" in line for line in ours)
    assert sum(bool(re.search(r"Flagged \d+ jumps", line)) for line in ours) == 1
    assert any(re.search(r"Step ipc (skipped: there is no ipc|done in)", line) for line in ours)
    assert shown[gpucoron.Coron1Pipeline].count("Step jump running on") == 1
    # the printed log has full paths, the saved one does not
    assert str(case.cache.path) in shown[gpucoron.Coron1Pipeline]
    assert str(case.cache.path) not in "\n".join(ours)


def reduce_by_run(case, folder):
    assert main(["run", str(case.path), "-o", str(folder), "--backend", "cpu", "-q", "--save-intermediates"]) == 0


def reduce_by_batch(case, folder):
    (result,) = batch.reduce(case.path, folder, backend="cpu", workers=1, steps=STEPS)
    assert result.status == "done"


def reduce_by_function(case, folder):
    gpucoron.reduce_file(case.path, folder, backend="cpu", steps=STEPS, save_intermediates=True)


def reduce_single(case, folder):
    gpucoron.run_single_file(case.path, folder, backend="cpu", save_calibrated_ramp=True)


def reduce_obs(case, folder):
    table = Table(rows=[(str(case.path), "STAGE0", "SCI")], names=("FITSFILE", "DATAMODL", "TYPE"))
    gpucoron.run_obs({"one": table}, output_dir=folder, subdir=".", backend="cpu", quiet=True)


def reduce_by_call(case, folder):
    steps = {**STEPS, "jump": {"save_results": True}}
    gpucoron.Coron1Pipeline.call(str(case.path), output_dir=str(folder), save_results=True, steps=steps, backend="cpu")


@pytest.mark.parametrize(
    "reduce", [reduce_by_run, reduce_by_batch, reduce_by_function, reduce_single, reduce_obs, reduce_by_call]
)
def test_every_product_holds_the_log(nircam, tmp_path, reduce):
    with nircam.cache.activate():
        reduce(nircam, tmp_path)
    found = {path.stem.split("nrcalong_")[1]: log_of(path) for path in tmp_path.glob("*.fits")}
    assert {"rate", "rateints"} <= set(found)
    for suffix, lines in found.items():
        text = "\n".join(lines)
        last = "ramp_fit" if suffix in ("rate", "rateints", "fitopt") else "persistence" if suffix == "ramp" else suffix
        assert re.search(rf"Step {last} (done|skipped)", text), suffix
        assert "Using MASK reference file jwst_nircam_mask" in text or suffix == "group_scale"
        assert "parameters are:" in text
        assert str(nircam.path.parent) not in text
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} - [\w.]+ - [A-Z]+ - ", line) for line in found["rate"])


def test_the_optional_fit_is_jwsts(case, tmp_path):
    """The header of fitopt has jwst's keywords, for any name of the products."""
    from jwst.pipeline import Detector1Pipeline

    headers = {}
    for way, pipeline in (("theirs", Detector1Pipeline), ("ours", gpucoron.Coron1Pipeline)):
        with case.cache.activate():
            pipeline.call(str(case.path), steps=STEPS, output_file="mine.fits", output_dir=str(tmp_path / way))
        headers[way] = {path.name: fits.getheader(path) for path in (tmp_path / way).iterdir()}
    assert headers["ours"].keys() == headers["theirs"].keys()
    (name,) = (name for name in headers["ours"] if name.endswith("_fitopt.fits"))
    ours, theirs = (
        {key: one[name][key] for key in one[name] if key not in ("DATE", "HISTORY")} for one in headers.values()
    )
    assert ours == theirs
    assert {"CAL_VER", "CRDS_CTX", "CAL_VCS", "CRDS_VER"} <= set(ours)
    assert not list((tmp_path / "ours").glob(".*"))


def test_threads_do_not_mix(exposures, tmp_path):
    """Exposures that are reduced in parallel keep separate logs, and do not change the loggers."""
    cases = [exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 1, shape=(24, 24), seed=seed) for seed in (1, 2)]
    paths = [tmp_path / f"x{number}_uncal.fits" for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(cases[number % 2].path.read_bytes())
    before = loggers()
    meeting, failed = threading.Barrier(len(paths)), []

    def reduce(path):
        meeting.wait()
        try:
            gpucoron.run_single_file(path, tmp_path / "out", verbose=True, backend="cpu")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=reduce, args=(path,)) for path in paths]
    with cases[0].cache.activate():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert loggers() == before
    for path in paths:
        text = "\n".join(log_of(tmp_path / "out" / path.name.replace("uncal", "rate")))
        assert set(re.findall(r"x\d_uncal", text)) == {path.stem}
        steps = re.findall(r"Step (\w+) running on", text)
        assert len(steps) == len(set(steps))
        assert {"group_scale", "jump", "ramp_fit", "gain_scale"} <= set(steps)


def loggers():
    """Return levels, handlers and filters of the loggers that a reduction may change."""
    found = [logging.getLogger(), *map(logging.getLogger, (*logs.LOGGERS, "gpucoron.coron1pipeline"))]
    return [(one.name, one.level, [(handler, list(handler.filters)) for handler in one.handlers]) for one in found]


class Heard(logging.Handler):
    """A handler that keeps its records."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.mark.parametrize("level", [logging.WARNING, logging.INFO])
def test_other_loggers_get_no_more_records(nircam, tmp_path, level):
    """Records for the products are not passed to other handlers."""
    root, handler = logging.getLogger(), Heard()
    root.addHandler(handler)
    before, theirs = root.level, loggers()
    try:
        root.setLevel(level)
        with nircam.cache.activate():
            gpucoron.reduce_file(nircam.path, tmp_path, backend="cpu", steps=STEPS)
    finally:
        root.setLevel(before)
        shown = handler.records
        found = loggers()
        root.removeHandler(handler)
    assert found == theirs
    assert all(record.levelno >= level for record in shown)
    assert any("Step jump done" in record.getMessage() for record in shown) == (level == logging.INFO)
    assert any("Step jump done" in line for line in log_of(next(tmp_path.glob("*_rate.fits"))))


def test_the_lowest_level_counts_until_its_end():
    logger = logging.getLogger("gpucoron.io.logs.test")
    with logs.shown(logger.name, logging.ERROR):
        assert logger.level == logging.ERROR
        with logs.shown(logger.name, logging.INFO):
            assert logger.level == logging.INFO
        assert logger.level == logging.ERROR
        logger.setLevel(logging.DEBUG)  # a level that the user has set is kept
    assert logger.level == logging.DEBUG


def test_logs_are_scrubbed_of_private_data(monkeypatch):
    monkeypatch.setattr(logs.getpass, "getuser", lambda: "marie")
    monkeypatch.setattr(logs.socket, "gethostname", lambda: "node-7")
    logs._private_names.cache_clear()
    try:
        text = logs.scrub(
            "read '/home/marie/my/x_uncal.fits' and crds://jwst_a.fits, out/y.fits by marie on node-7 (10.0.0.12, "
            "fe80::1:2) at 18:28:44.237, jwst 3.0.0; mariembad is a town"
        )
    finally:
        logs._private_names.cache_clear()
    assert text == (
        "read 'x_uncal.fits' and crds://jwst_a.fits, out/y.fits by (user) on (host) ((address), (address)) at "
        "18:28:44.237, jwst 3.0.0; mariembad is a town"
    )
