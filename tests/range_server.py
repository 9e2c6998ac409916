"""A web server on this machine for tests of streaming."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Answers:
    """How the server behaves; `requests` counts what it was asked. `fail(path, count)` says whether to answer the
    `count`-th request for `path` with status 503."""

    def __init__(self, *, ranges: bool = True, fail: Callable[[str, int], bool] = lambda path, count: False):
        self.ranges, self.fail = ranges, fail
        self.requests: dict[str, int] = {}
        self.sent_bytes = 0


@contextmanager
def serving(root: Path, answers: Answers) -> Iterator[str]:
    """URL of `root`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or else each answer waits 40 ms for an acknowledgement

        def do_GET(self):
            answers.requests[self.path] = answers.requests.get(self.path, 0) + 1
            file = root / self.path.lstrip("/")
            if answers.fail(self.path, answers.requests[self.path]):
                return self._answer(503, b"busy")
            if not file.is_file():
                return self._answer(404, b"no such file")
            data = file.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if not (wanted and answers.ranges):
                return self._answer(200, data)
            start, last = int(wanted[1]), int(wanted[2])
            self._answer(206 if start < len(data) else 416, data[start : last + 1])

        def _answer(self, status: int, body: bytes):
            answers.sent_bytes += len(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
