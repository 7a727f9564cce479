"""A proxy before the tests' object store that fails on request, as networks and object stores do."""

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
DROPPED = {"content-length", "connection", "transfer-encoding"}
"""Headers that are the proxy's own."""

SLOW = 1.0
"""Seconds that a slow answer takes."""

Fault = Callable[[str], str | None]
"""From the path of a request to what happens to it: an HTTP status, ``expired``, ``slow``, or None."""


class FaultyStore:
    """Forwards requests to the store at `host`:`port`, save for those that `fault` is about.

    Attributes:
        fault: decides about each request; may be replaced at any time.
        faults: requests that have failed so far.
        requests: all so far.
    """

    def __init__(self, host: str, port: int) -> None:
        self.fault: Fault = lambda path: None
        self.faults = self.requests = 0
        self._store = (host, port)
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        """The address of the proxy, the same after every `start`."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Accept connections."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # whose clients ask before they send a body

            def answer(self) -> None:
                self.close_connection = True
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                owner.requests += 1
                kind = owner.fault(self.path)
                if kind is None or kind == "slow":
                    time.sleep(SLOW if kind else 0)
                    status, headers, content = self.forward(body)
                else:
                    owner.faults += 1
                    status, headers = (403 if kind == "expired" else int(kind)), []
                    content = EXPIRED if kind == "expired" else b""
                self.send_response(status)
                self.send_header("Connection", "close")
                for name, value in headers:
                    self.send_header(name, value)
                if not headers:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                connection = http.client.HTTPConnection(*owner._store)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                connection.close()
                kept = [item for item in response.getheaders() if item[0].lower() not in DROPPED]
                if self.command == "HEAD":
                    kept = [item for item in response.getheaders() if item[0].lower() != "connection"]
                    return response.status, kept, b""
                return response.status, [*kept, ("Content-Length", str(len(content)))], content

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
