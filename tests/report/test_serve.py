"""The served report, asked as a browser, and as those who should get nothing, would ask."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import pytest

import gpucoron.report.ramp
from gpucoron.cli import main
from gpucoron.errors import InputError, OutputError
from gpucoron.records.manifest import read_manifests
from gpucoron.report.serve import serving
from tests.cases.batches import HOME
from tests.cases.records import make_failure, make_preview, make_record, write_manifest, write_preview
from tests.cases.waiting import HANG, wait_for

ASKED = {
    "profile": "jwst",
    "use_pars": False,
    "parameters": {"jump.rejection_threshold": 5.0, "run.stage_1overf": "groups"},
    "files": {},
}


def make_folder(folder):
    """Make a folder of three exposures: reduced, failed, and of a version that recorded no request."""
    raw = folder.parent / "raw_uncal.fits"
    raw.write_bytes(b"raw counts")
    fields = {"input": str(raw), "input_path": str(raw), "input_bytes": 10, "input_date": os.stat(raw).st_mtime_ns}
    records = [make_record(0, asked=ASKED, **fields), make_failure(1, "cut short"), make_record(2, **fields)]
    write_manifest(folder, records)
    write_preview(folder, records[0]["exposure"], make_preview())
    for name in (records[0]["outputs"]["rate"], f"logs/{records[0]['exposure']}.log"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    (folder / "secret.txt").write_text("not linked")
    (folder.parent / "secret.txt").write_text("outside")


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "stage1"
    make_folder(folder)
    return folder


@pytest.fixture
def names(folder):
    return list(read_manifests(folder)[0])


@pytest.fixture
def server(folder):
    with serving(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def asked(monkeypatch):
    """A stand-in for the ramp; the fixture's value lists how it was called."""
    calls = []

    def trace_ramp(path, x, y, **options):
        calls.append({"path": path, "x": x, "y": y, **options})
        if x > 319:
            raise InputError(f"{path}: x is {x}, <but> the array has 320 columns")
        if x < 0:
            raise ZeroDivisionError("a bug")
        return calls[-1]

    monkeypatch.setattr(gpucoron.report.ramp, "trace_ramp", trace_ramp, raising=False)
    monkeypatch.setattr(
        gpucoron.report.ramp, "ramp_page", lambda trace, integration: f"<html>{trace['x']} {integration}</html>",
        raising=False,
    )  # fmt: skip
    return calls


def get(server, path, method="GET", host=None):
    """Ask below the token; return status, body and headers."""
    return ask(server, f"/{server.token}/{path}", method, host)


def ask(server, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=HANG)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.headers


def test_the_page_and_the_files_that_it_links_to(server, folder, names):
    with urllib.request.urlopen(server.url) as answer:
        page = answer.read().decode()
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'self'"
    assert f'<html lang="en" data-serve="/{server.token}">' in page
    assert "frame-src 'self'" in re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    for name, kind in ((f"{names[0]}_rate.fits", "application/octet-stream"), (f"logs/{names[0]}.log", "text/plain")):
        status, body, headers = get(server, f"files/{name}")
        assert (status, body) == (200, f"content of {name}")
        assert headers["Content-Type"].startswith(kind)


def test_a_page_that_is_not_served_asks_no_server(folder, tmp_path):
    from gpucoron.report import write_report

    page = write_report(folder, tmp_path / "page.html").read_text()
    assert '<html lang="en">' in page


def test_head_has_the_headers_of_get(server, names):
    for path in ("", f"files/{names[0]}_rate.fits"):
        status, body, headers = get(server, path, "HEAD")
        assert (status, body) == (200, "")
        assert headers["Content-Length"] == get(server, path)[2]["Content-Length"] != "0"


def test_everything_else_is_not_found(server, names, folder):
    """No answer tells whether a token, a file or a folder is nearly right."""
    token = server.token
    paths = [
        "/", "/favicon.ico", f"/{token[:-1]}/", f"/{token}x/", f"/{token.swapcase()}/", "/report.html",
        f"/x/../{token}/", f"/%2f{token}/", "/%00", "/%ce%b1/",
    ]  # fmt: skip
    below = [
        "files", "files/", "files/secret.txt", "files/../secret.txt", "files/..%2fsecret.txt", "secret.txt", "..",
        "files/manifest.jsonl", "../stage1/manifest.jsonl", "%2e%2e/%2e%2e/etc/passwd", "//etc/passwd",
        f"files/./{names[0]}_rate.fits", f"files/logs/../{names[0]}_rate.fits", f"files/{folder}/secret.txt",
        "files/previews", f"files/{names[0]}_rateints.fits", "ramp/", "%",
    ]  # fmt: skip
    for path in (*paths, *(f"/{token}/{name}" for name in below)):
        assert (path, *ask(server, path)[:2]) == (path, 404, "Not Found\n")


@pytest.mark.parametrize(
    "request_line",
    [b"GET /\xce\xb1/ HTTP/1.1", b"rubbish", b"", b"GET / HTTP/9.9", b"GET", b"\x16\x03\x01", b"GET /" + 70_000 * b"x"],
    ids=range(7),
)
def test_what_is_no_request_tells_nothing_and_ends_nothing(server, request_line):
    with socket.create_connection(server.server_address, timeout=HANG) as connection:
        connection.sendall(request_line + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert b"200" not in answer
    assert b"rubbish" not in answer
    assert b"html" not in answer
    assert get(server, "")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "get", "TRACE"])
def test_only_get_and_head(server, method):
    status, body, headers = get(server, "", method)
    assert status == 501
    assert body == "Not Implemented\n"
    assert "Python" not in str(headers)


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""]
)
def test_another_name_of_this_machine_gets_nothing(server, host):
    """A web site may point its own name at 127.0.0.1, so that its scripts reach this server as their own."""
    assert get(server, "", host=host.format(port=server.server_port))[:2] == (404, "Not Found\n")
    assert get(server, "", host=f"localhost:{server.server_port}")[0] == 200


def test_only_this_machine_can_connect(server):
    assert server.server_address[0] == "127.0.0.1"


def test_two_servers_have_two_tokens(folder):
    with serving(folder) as one, serving(folder) as other:
        assert one.token != other.token
        assert len(one.token) >= 40  # 32 random bytes


def test_a_ramp_is_asked_with_the_recorded_request(server, names, asked, tmp_path):
    status, body, headers = get(server, f"ramp?exposure={names[0]}&x=12&y=7&int=1")
    assert (status, body) == (200, "<html>12 1</html>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert get(server, f"ramp?exposure={names[0]}&x=12&y=7&int=")[1] == "<html>12 None</html>"
    assert asked[0] == {
        "path": str(tmp_path / "raw_uncal.fits"),
        "x": 12,
        "y": 7,
        "integration": 1,
        "profile": "jwst",
        "use_pars": False,
        "steps": {"jump": {"rejection_threshold": 5.0}},
        "stage_1overf": "groups",
    }


def test_the_reason_for_no_ramp_is_a_page(server, names, asked, tmp_path):
    ramps = {
        f"exposure={names[0]}&x=400&y=7": (422, "x is 400, &lt;but&gt; the array has 320 columns"),
        f"exposure={names[0]}&x=1.5&y=7": (422, "x: expected a whole number, counted from 0, got &#x27;1.5&#x27;"),
        f"exposure={names[0]}&x=1": (422, "y: expected a whole number"),
        f"exposure={names[0]}&x=1&y=1&int=two": (422, "int: expected a whole number"),
        "exposure=<b>none</b>&x=1&y=1".replace("<", "%3C").replace(">", "%3E"): (422, "&lt;b&gt;none&lt;/b&gt;: this"),
        "x=1&y=1": (422, "this report has no such exposure"),
        f"exposure={names[1]}&x=1&y=1": (422, "its parameters are not recorded completely"),
        f"exposure={names[2]}&x=1&y=1": (422, "its parameters are not recorded completely"),
        f"exposure={names[0]}&x=-1&y=7": (500, "internal error: ZeroDivisionError: a bug"),
    }
    for query, (status, words) in ramps.items():
        answer = get(server, f"ramp?{query}")
        assert answer[0] == status
        assert words in answer[1]
        assert answer[1].startswith("<!doctype html>")
        assert "Traceback" not in answer[1]
    (tmp_path / "raw_uncal.fits").write_bytes(b"other counts")
    assert "has changed since" in get(server, f"ramp?exposure={names[0]}&x=1&y=1")[1]


def test_a_click_runs_no_program_that_a_manifest_names(server, names, asked):
    record = server.found.records[names[0]]
    record["asked"]["parameters"]["jump.pre_hooks"] = ["os.remove"]
    status, body, _ = get(server, f"ramp?exposure={names[0]}&x=12&y=7")
    assert status == 422
    assert f"gpucoron ramp {record['input_path']} 12 7 --profile jwst" in body
    assert "--set jump.pre_hooks=os.remove" in body
    assert asked == []


def test_one_ramp_at_a_time_and_none_for_a_browser_that_has_left(server, names, asked, monkeypatch):
    inside, first, go_on = [], threading.Event(), threading.Event()

    def trace_ramp(path, x, y, **options):
        inside.append(x)
        first.set()
        assert go_on.wait(HANG)
        return {"x": x}

    monkeypatch.setattr(gpucoron.report.ramp, "trace_ramp", trace_ramp)
    answers = []

    def click(x):
        answers.append(get(server, f"ramp?exposure={names[0]}&x={x}&y=1")[1])

    threads = [threading.Thread(target=click, args=(1,))]
    threads[0].start()
    assert first.wait(HANG)
    # a browser asks for another pixel and leaves, then a third one waits
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", f"/{server.token}/ramp?exposure={names[0]}&x=2&y=1")
    wait_for(lambda: count_waiting() == 2)
    connection.close()
    threads.append(threading.Thread(target=click, args=(3,)))
    threads[1].start()
    wait_for(lambda: count_waiting() == 3)
    assert inside == [1]
    go_on.set()
    for thread in threads:
        thread.join()
    assert inside == [1, 3]
    assert sorted(answers) == ["<html>1 None</html>", "<html>3 None</html>"]


def count_waiting():
    """Count the requests for ramps that are being answered or wait."""
    frames = [sys._current_frames().get(thread.ident) for thread in threading.enumerate()]
    return sum(any(name == "_send_ramp" for name in names_of(frame)) for frame in frames)


def names_of(frame):
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def test_nothing_is_written_into_the_folder_and_nothing_is_left(folder, monkeypatch, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = contents(folder)
    with serving(folder) as server:
        assert server.page.is_relative_to(scratch)
    assert contents(folder) == before
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it(folder, tmp_path, number):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = contents(folder)
    command = [sys.executable, "-m", "gpucoron", "report", "--serve", str(folder)]
    environment = {**os.environ, "PYTHONPATH": HOME, "TMPDIR": str(scratch)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            beginning, line, hint = (process.stdout.readline() for _ in range(3))
            assert beginning == f"reading {folder}\n"
            assert hint == "Ctrl-C ends it\n"
            url = re.fullmatch(r"the report is at (http://127\.0\.0\.1:\d+/[\w-]{40,}/)\n", line)[1]
            with urllib.request.urlopen(url) as answer:
                assert b"gpucoron report" in answer.read()
            process.send_signal(number)
            out, err = process.communicate(timeout=HANG)
        finally:
            process.kill()
    assert process.returncode == 0
    assert (out, err) == ("", "\n")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)
    assert contents(folder) == before
    assert list(scratch.iterdir()) == []


def test_integrations_that_cannot_be_written_end_nothing(server, names, monkeypatch, caplog):
    def fail(page, found, name):
        raise OutputError(f"{name}: could not be written (No space left on device)")

    monkeypatch.setattr("gpucoron.report.serve.write_tiles_named", fail)
    assert get(server, f"report_tiles/{names[0]}_tiles.js")[:2] == (404, "Not Found\n")
    assert "No space left on device" in caplog.text
    assert get(server, "")[0] == 200


def test_a_port_that_is_taken(folder):
    with serving(folder) as one:
        refused = pytest.raises(OutputError, match=f"port {one.server_port} .*choose another one with --port")
        with refused, serving(folder, one.server_port):
            pass


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--serve", "-o", "page.html"), "--output: not with --serve"),
        (("--port", "8000"), "--port: only with --serve"),
    ],
)
def test_options_that_contradict(folder, capsys, arguments, words):
    assert main(["report", str(folder), *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "8e3"])
def test_ports_that_do_not_exist(folder, capsys, port):
    with pytest.raises(SystemExit):
        main(["report", str(folder), "--serve", f"--port={port}"])
    assert "expected a number from 1 to 65535" in capsys.readouterr().err


def test_a_folder_without_products(tmp_path, capsys):
    assert main(["report", "--serve", str(tmp_path)]) == 2
    assert "give the folder with the products" in capsys.readouterr().err


def test_a_single_product(folder, names):
    path = next(folder.glob("*_rate.fits"))
    with serving(path) as server:
        assert list(server.found.records) == names[:1]
        assert Path(server.page).read_text().count('id="exposure-') == 1


def test_a_real_exposure_from_raw_file_to_ramp(exposures, tmp_path):
    """Each address on the page leads to its file, and the ramp is that of the raw file."""
    from gpucoron.report.ramp import ramp_page, trace_ramp

    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 32))
    folder, settings = tmp_path / "stage1", {"jump": {"rejection_threshold": 5.0}}
    arguments = ["-o", str(folder), "-q", "--set", "jump.rejection_threshold=5", "--no-pars"]
    with case.cache.activate():
        assert main(["run", str(case.path), *arguments]) == 0
        before = contents(folder)
        with serving(folder) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                page = get(server, "")[1]
                (detail,) = re.findall(r'<script type="application/json" id="exposure-0">(.*?)</script>', page)
                detail = json.loads(detail)
                assert [label for label, _ in detail["links"]] == ["log", "rate", "rateints"]
                for _, address in detail["links"]:
                    with urllib.request.urlopen(urljoin(server.url, address)) as answer:
                        assert answer.read() == (folder / address.partition("/files/")[2]).read_bytes()
                exposure = case.path.name.removesuffix("_uncal.fits")
                with urllib.request.urlopen(urljoin(server.url, detail["tiles"])) as answer:
                    assert answer.headers["Content-Type"].startswith("text/javascript")
                    assert f'gpucoronTiles("{exposure}"' in answer.read().decode()
                status, body, _ = get(server, f"ramp?exposure={exposure}&x=9&y=7&int=1")
                outside = get(server, f"ramp?exposure={exposure}&x=32&y=7")
            finally:
                server.shutdown()
                thread.join()
        trace = trace_ramp(case.path, 9, 7, steps=settings, use_pars=False)
    assert status == 200
    assert without_times(body) == without_times(ramp_page(trace, 1))
    assert outside[0] == 422
    assert contents(folder) == before


def without_times(page):
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", page)
