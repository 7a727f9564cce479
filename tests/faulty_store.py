"""A proxy before the tests' object store that fails or lies on request, as networks and object stores do."""

import http.client
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from s3fs import S3FileSystem

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
PAGE = b"<html><body>The proxy asks you to sign in.</body></html>"

SLOW = 1.0
"""Seconds that a slow answer takes."""

Fault = Callable[[str], str | None]
"""From the method and path of a request to what happens to it; None if nothing.

An HTTP status or ``expired``: it is refused. ``slow``. ``lost``: it is done, but answered with 500. ``page``:
the answer is a page of HTML with status 200. ``short`` and ``flipped``: half of the body, or another byte.
"""


def without_md5(text: str) -> str:
    """A text with every MD5 in it backwards; the same again gives the text."""
    return re.sub("[0-9a-f]{32}", lambda digits: digits[0][::-1], text)


class FaultyStore:
    """Forwards requests to the store at `host`:`port`, save for those that `fault` is about.

    Attributes:
        fault: decides about each request; may be replaced at any time.
        faults: requests that have failed so far.
        requests: all so far.
        checksums: whether answers have MD5 as entity tags, and the checksums of bodies.
    """

    def __init__(self, host: str, port: int) -> None:
        self.fault: Fault = lambda path: None
        self.faults = self.requests = 0
        self.checksums = True
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
                kind = owner.fault(f"{self.command} {self.path}")
                owner.faults += kind not in (None, "slow")
                time.sleep(SLOW if kind == "slow" else 0)
                status, headers, content = 500, dict[str, str](), b""
                if kind in (None, "slow", "lost", "short", "flipped"):
                    status, headers, content = self.forward(body)
                middle = len(content) // 2
                if kind == "short":
                    content = content[:middle]
                elif kind == "flipped":
                    content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
                elif kind not in (None, "slow"):
                    answers = {"lost": (500, b""), "page": (200, PAGE), "expired": (403, EXPIRED)}
                    status, content = answers[kind] if kind in answers else (int(kind), b"")
                    headers = {}
                self.send_response(status)
                if self.command != "HEAD" or not headers:
                    headers["Content-Length"] = str(len(content))
                for name, value in (headers | {"Connection": "close"}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else content)

            def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(*owner._store)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                if not owner.checksums:
                    tags = {name for name in headers if name.lower() == "if-match"}
                    headers |= {name: without_md5(headers[name]) for name in tags}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content, dropped = response.read(), ("connection", "transfer-encoding")
                answered = {name: text for name, text in response.getheaders() if name.lower() not in dropped}
                connection.close()
                if not owner.checksums:
                    kept = (each for each in answered.items() if "checksum" not in each[0].lower())
                    answered = {name: without_md5(text) for name, text in kept}
                    if content.startswith(b"<?xml"):
                        content = without_md5(content.decode()).encode()
                return response.status, answered, content

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


@contextmanager
def proxied(patch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """The tests' object store behind a proxy for all processes; nothing is requested twice."""
    host, port = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://").split(":")
    proxy = FaultyStore(host, int(port))
    patch.setenv("AWS_ENDPOINT_URL", proxy.url)
    patch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    yield proxy
    proxy.stop()
    S3FileSystem.clear_instance_cache()
