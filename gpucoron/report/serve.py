"""``gpucoron report --serve``: show a report in a browser, with the ramp of each pixel that is clicked.

The server answers on 127.0.0.1 alone, below an address that holds a secret token, and only to GET and HEAD. It sends
the page, what the page links to, and ramps; every other address is not found. Nothing is written into the folder of
the products: the page is written to a temporary one.
"""

import contextlib
import html
import logging
import secrets
import select
import shutil
import socket
import socketserver
import tempfile
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from gpucoron.batch.decision import has_input_changed
from gpucoron.errors import GpucoronError, InputError, OutputError, ParameterError
from gpucoron.files import on_one_line
from gpucoron.records.commands import command_ramp, input_path, request_of
from gpucoron.report.found import find_records
from gpucoron.report.links import SERVED, linked_files
from gpucoron.report.page import write_report
from gpucoron.report.tiles import write_tiles_named

log = logging.getLogger(__name__)

HOST = "127.0.0.1"

_TYPES = {".html": "text/html", ".js": "text/javascript", ".log": "text/plain", ".json": "application/json"}
#: of every answer: the page keeps its address, and with it the token, to itself
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_MESSAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'">
<meta name="color-scheme" content="light dark">
<title>No ramp</title>
</head>
<body>
<p>{}</p>
</body>
</html>
"""


@contextlib.contextmanager
def serving(folder, port=0, docs=""):
    """Serve the report of a folder or a product while the block runs.

    Parameters
    ----------
    folder : str or Path
        As for `gpucoron.report.write_report`.
    port : int
        0 chooses a free one.
    docs : str, optional
        As for `gpucoron.report.write_report`.

    Yields
    ------
    server : ReportServer
        Its ``url`` is the address of the page; `serve_forever` answers requests until the process is interrupted.

    Raises
    ------
    InputError
        There are no products to report on.
    OutputError
        The port is in use, or the temporary folder cannot be written to.
    """
    with tempfile.TemporaryDirectory(prefix="gpucoron-report-") as scratch:
        token = secrets.token_urlsafe()
        found = find_records(folder)
        page = write_report(folder, Path(scratch) / "page" / "report.html", serve=f"/{token}", docs=docs)
        try:
            server = ReportServer(port, token, page, found)
        except OSError as error:
            msg = f"port {port} of {HOST} cannot be used ({error.strerror}); choose another one with --port"
            raise OutputError(msg) from None
        try:
            yield server
        finally:
            server.server_close()


class ReportServer(ThreadingHTTPServer):
    """A server for one report.

    Parameters
    ----------
    port : int
        0 chooses a free one.
    token : str
        First part of all addresses.
    page : Path
        The page; all files in its folder are sent.
    found : gpucoron.report.found.Found
        The records of the page.
    """

    daemon_threads = True

    def __init__(self, port, token, page, found):
        self.token, self.page, self.found = token, page, found
        self.files = {f"{SERVED}/{name}": found.folder / name for name in _linked(found)}
        self.one_ramp_at_a_time = threading.Lock()
        super().__init__((HOST, port), _Handler)

    def server_bind(self):
        """Bind the port, without looking up the name of this machine in a network that may not answer."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    @property
    def url(self):
        """The address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def find_file(self, name):
        """Return the path of a file that the page shows or links to; None for any other name."""
        if name in self.files:
            return self.files[name]
        if not name:
            return self.page
        # the names of existing files are compared, so that no name leads out of the folder
        beside = {path.relative_to(self.page.parent).as_posix(): path for path in self.page.parent.rglob("*")}
        return beside.get(name) or write_tiles_named(self.page, self.found, name)

    def handle_error(self, request, client_address):
        """Log an unexpected error; a browser that closes its connection is none."""
        log.debug("%s: the request was not answered", client_address, exc_info=True)


def _linked(found):
    return {name for record in found.records.values() for _label, name in linked_files(found.folder, record)}


def ramp_of(found, exposure, x, y, integration=None):
    """Trace the ramp of a pixel of a recorded exposure, and return its page.

    Parameters
    ----------
    found : gpucoron.report.found.Found
    exposure : str
        Name of the exposure.
    x, y : str or int
        Column and row in the array, counted from 0.
    integration : str or int, optional
        Counted from 0; by default the first one with a jump.

    Returns
    -------
    str
        A complete HTML page.

    Raises
    ------
    InputError
        The exposure, its input file or its complete request is not known.
    ParameterError
        There is no such pixel or integration.
    """
    from gpucoron.report.ramp import ramp_page, trace_ramp

    x, y, integration = _whole_number("x", x), _whole_number("y", y), _whole_number("int", integration, optional=True)
    record = found.records.get(exposure)
    if record is None:
        msg = f"{exposure}: this report has no such exposure"
        raise InputError(msg)
    path, request = input_path(record), request_of(record)
    if not path:
        msg = f"{exposure}: its input file is not recorded; reduce it again with gpucoron run or gpucoron batch"
        raise InputError(msg)
    if request is None:
        msg = (
            f"{exposure}: its parameters are not recorded completely: they were given in Python or to an older "
            f"version; use gpucoron ramp {path} X Y with your parameters"
        )
        raise InputError(msg)
    if any(values.get(kind) for values in request.steps.values() for kind in ("pre_hooks", "post_hooks")):
        # a click must not run programs that the manifest of a folder names
        command = command_ramp(record).replace("{x}", str(x)).replace("{y}", str(y))
        msg = f"{exposure}: was reduced with hooks, which only a command runs: {command}"
        raise InputError(msg)
    if Path(path).is_file() and has_input_changed(Path(path), record):
        msg = f"{path}: has changed since {exposure} was reduced; reduce it again with gpucoron run or gpucoron batch"
        raise InputError(msg)
    trace = trace_ramp(
        path,
        x,
        y,
        integration=integration,
        profile=request.profile,
        steps=request.steps,
        use_pars=request.use_pars,
        **request.run_parameters,
    )
    return ramp_page(trace, integration)


def _whole_number(name, value, optional=False):
    if optional and value in (None, ""):
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        msg = f"{name}: expected a whole number, counted from 0, got {value!r}"
        raise ParameterError(msg) from None


class _Handler(BaseHTTPRequestHandler):
    """Answer one request."""

    protocol_version = "HTTP/1.1"
    #: seconds after which a silent connection is closed
    timeout = 60

    def do_GET(self):
        address = urlsplit(self.path)
        first, _, name = address.path.removeprefix("/").partition("/")
        if not self._is_ours(first):
            self.send_error(HTTPStatus.NOT_FOUND)
        elif name == "ramp":
            self._send_ramp(parse_qs(address.query))
        else:
            self._send_file(self._find_file(unquote(name)))

    do_HEAD = do_GET

    def _is_ours(self, token):
        """Return whether a request holds the token, and was sent to this machine by its own name."""
        # another web site can give its name the address 127.0.0.1, but not this header
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        is_same = secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        return is_same and self.headers.get("Host") in hosts

    def _find_file(self, name):
        try:
            return self.server.find_file(name)
        except GpucoronError as error:  # the temporary folder is full
            log.error("%s", error)
            return None

    def _send_file(self, path):
        try:
            file = path.open("rb") if path is not None and path.is_file() else None
        except OSError:
            file = None
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            size = file.seek(0, 2)
            file.seek(0)
            self._send_headers(HTTPStatus.OK, _TYPES.get(path.suffix, "application/octet-stream"), size)
            if self.command == "GET":
                shutil.copyfileobj(file, self.wfile)

    def _send_ramp(self, query):
        asked = {name: values[-1] for name, values in query.items()}
        status, text = HTTPStatus.OK, ""
        with self.server.one_ramp_at_a_time:
            if self._has_left():
                self.close_connection = True
                return
            if self.command == "GET":
                status, text = self._make_ramp(asked)
        body = text.encode()
        self._send_headers(status, "text/html", len(body))
        self.wfile.write(body)

    def _make_ramp(self, asked):
        """Return the status and the page of a ramp, or of the message that says why there is none."""
        try:
            numbers = (asked.get(name) for name in ("x", "y", "int"))
            return HTTPStatus.OK, ramp_of(self.server.found, asked.get("exposure", ""), *numbers)
        except GpucoronError as error:
            return HTTPStatus.UNPROCESSABLE_ENTITY, _MESSAGE.format(html.escape(on_one_line(error)))
        except Exception as error:  # the page must say that it failed
            log.exception("the ramp of %s", asked)
            text = f"internal error: {type(error).__name__}: {error}; the terminal of gpucoron report has the traceback"
            return HTTPStatus.INTERNAL_SERVER_ERROR, _MESSAGE.format(html.escape(on_one_line(text)))

    def _has_left(self):
        """Return whether the browser has closed the connection, because another pixel was clicked meanwhile."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _send_headers(self, status, kind, size):
        self.send_response(status)
        charset = "; charset=utf-8" if kind.startswith("text/") else ""
        headers = {**_HEADERS, "Content-Type": kind + charset, "Content-Length": str(size)}
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def send_error(self, code, message=None, explain=None):
        """Answer with the status alone."""
        body = f"{HTTPStatus(code).phrase}\n".encode()
        self.close_connection = True
        self._send_headers(code, "text/plain", len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self):
        """Return the name of the server, without versions."""
        return "gpucoron"

    def log_message(self, text, *values):
        """Log a request for ``--verbose`` without its address, which holds the token."""
        log.info("%s", self.command)
