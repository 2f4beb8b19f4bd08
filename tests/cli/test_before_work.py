"""What is wrong with a request is told once, before libraries are loaded, and leaves no folder."""

import logging
import re

import pytest

from gpucoron import engine
from gpucoron.cli import main
from gpucoron.cli.output import NO_READER
from tests.cases.batches import Raw
from tests.cases.paths import ROOT


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return Raw(tmp_path_factory.mktemp("raw"), 1)


def told(capsys, *arguments):
    """Run a command that fails; return the only line that it prints."""
    assert main([*map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_run_names_all_missing_files_folders_and_products_at_once(raw, tmp_path, capsys):
    output, product = tmp_path / "out", tmp_path / "x_rate.fits.gz"
    product.write_text("")
    line = told(capsys, "run", raw.files[0], "one.fits", "two.fits", raw.path, product, "-o", output)
    assert "one.fits, two.fits: no such file" in line
    assert f"{raw.path} is a folder; use gpucoron batch {raw.path} -o {output}" in line
    assert f"give the exposure that it was made of, such as {tmp_path}/x_uncal.fits.gz" in line
    assert not output.exists()


def test_a_pattern_without_a_file_is_told_as_such(tmp_path, capsys):
    line = told(capsys, "run", tmp_path / "*_uncal.fits", "-o", tmp_path / "out")
    assert line.endswith("*_uncal.fits: no such file; no file matches this pattern")


def test_a_batch_names_all_missing_paths_at_once(raw, tmp_path, capsys):
    output, listed = tmp_path / "out", tmp_path / "list.txt"
    listed.write_text("two.fits\nthree.fits\n")
    line = told(capsys, "batch", raw.files[0], "one.fits", f"@{listed}", "-o", output)
    assert "one.fits, two.fits, three.fits: no such file or folder" in line
    assert not output.exists()


@pytest.mark.parametrize("command", ["run", "batch"])
def test_a_folder_that_cannot_be_written_to_is_told_once(raw, tmp_path, capsys, command):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        line = told(capsys, command, *raw.files, *raw.files, "-o", output)
        assert f"{output}: cannot write in this folder" in line


@pytest.mark.parametrize("command", ["run", "batch"])
def test_a_wrong_setting_makes_no_folder(raw, tmp_path, capsys, command):
    output = tmp_path / "out"
    line = told(capsys, command, *raw.files, *raw.files, "-o", output, "--set", "jump.rejection_treshold=5")
    assert "did you mean 'rejection_threshold'" in line
    assert not output.exists()


def test_ramp_names_the_way_out(raw, tmp_path, capsys):
    assert "none.fits: no such file" in told(capsys, "ramp", "none.fits", 3, 3)
    assert "is a folder; give one of its files" in told(capsys, "ramp", raw.path, 3, 3)
    (tmp_path / "file").write_text("")
    picture = tmp_path / "file" / "x.png"
    assert "there is no folder" in told(capsys, "ramp", raw.files[0], 3, 3, "-o", picture)


def test_report_names_the_way_out(raw, capsys):
    assert "give a folder of products, or one *_rate.fits" in told(capsys, "report", "none")
    assert "give products, or the folder with the products" in told(capsys, "report", raw.files[0])


def test_files_with_products_of_the_same_name_are_refused(raw, tmp_path, capsys):
    """With --overwrite, the second would replace the products of the first."""
    name = raw.files[0].name
    (tmp_path / name).write_bytes(raw.files[0].read_bytes())
    ramp = tmp_path / name.replace("_uncal", "_ramp")
    ramp.write_bytes(b"")
    for other in (tmp_path / name, ramp):
        message = told(capsys, "run", raw.files[0], other, "-o", tmp_path / "out", "--overwrite")
        assert f"{raw.files[0]} and {other} would write products of the same name" in message
        assert not (tmp_path / "out").exists()


def test_a_missing_file_of_the_user_is_told_with_the_exposure(raw, capsys):
    message = told(capsys, "run", raw.files[0], "-o", "out", "--set", "dq_init.user_supplied_dq=none.fits")
    assert f"{raw.files[0]}: dq_init.user_supplied_dq: 'none.fits': there is no such file" in message


def test_an_output_folder_without_a_name_is_refused(raw, capsys):
    with pytest.raises(SystemExit):
        main(["run", str(raw.files[0]), "-o", ""])
    assert "use . for the current folder" in capsys.readouterr().err


def test_a_parameter_of_the_run_names_its_option(raw, capsys):
    message = told(capsys, "run", raw.files[0], "-o", "out", "--set", "stage_1overf=groups")
    assert "use --stage-1overf" in message


def test_help_lists_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out.partition("exit codes:\n")[2].splitlines()
    codes = [int(line.split()[0]) for line in listed if line.split()[0].isdigit()]
    assert codes == [0, 1, 2, 130, NO_READER]
    page = (ROOT / "docs" / "batch.md").read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == codes
    for code in (1, 2):
        meaning = next(line.split(maxsplit=1)[1] for line in listed if line.split()[0] == str(code))
        assert f"| {code} | {meaning} |" in page.replace("`", "")
    for wrong in (["run"], ["nothing"], ["run", "x.fits", "-o", "out", "-q", "-v"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2


@pytest.mark.parametrize("verbose", [False, True])
def test_the_traceback_of_a_crash_is_kept(monkeypatch, capsys, verbose):
    def crash(*arguments, **keywords):
        msg = "not foreseen"
        raise TypeError(msg)

    monkeypatch.setattr("gpucoron.report.write_report", crash)
    assert main(["report", "x", *["-v"] * verbose]) == 1
    *above, last = capsys.readouterr().err.splitlines()
    assert "an internal error of gpucoron (TypeError: not foreseen); please report it" in last
    if verbose:
        assert above[0].startswith("Traceback")
    else:
        assert not above
        with open(last.split()[-1]) as file:
            assert "in crash" in file.read()


@pytest.mark.parametrize("verbose", [False, True])
def test_the_traceback_of_an_exposure_is_in_its_log(raw, tmp_path, monkeypatch, capsys, verbose):
    def crash(*arguments, **keywords):
        msg = "not foreseen"
        raise TypeError(msg)

    monkeypatch.setattr(engine, "run_step", crash)
    root = logging.getLogger()
    # pytest's handlers stay in place otherwise, and the command line adds none
    level, before, root.handlers[:] = root.level, root.handlers[:], []
    try:
        with raw.cache.activate():
            assert main(["run", str(raw.files[0]), "-o", str(tmp_path), *["-v"] * verbose]) == 2
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    printed = capsys.readouterr().err
    log = tmp_path / "logs" / f"{raw.names[0]}.log"
    assert ("Traceback" in printed) == verbose
    assert verbose or printed.rstrip().endswith(f"traceback: {log}")
    assert "in crash" in log.read_text()
    assert verbose or printed.count("please report it") == 1
