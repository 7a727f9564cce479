"""A real Chromium, driven through its pipe: keys, downloads, and what scripts return."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
TIME_LIMIT = 120

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Browser:
    """One tab; commands of the Chrome DevTools Protocol as JSON, each ended by a null byte."""

    def __init__(self, read: int, write: int, downloads: Path) -> None:
        self._read, self._write, self._number, self._rest = read, write, 0, b""
        self.session: str | None = None
        self.errors: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session and not method.startswith("Browser."):
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(reply["params"]))
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return dict(reply["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has gone"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def open(self, page: Path, width: int = 1280) -> None:
        """Show a file as wide as a screen of `width` pixels."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", url=page.as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """The value of an expression on the page."""
        reply = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        look = f"const look = () => {script} ? done(true) : setTimeout(look, 20)"
        assert self.evaluate(f"new Promise(done => {{ {look}; look(); }})")

    def press(self, *keys: str) -> None:
        """Press keys, such as y or ArrowLeft, one after the other."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            self("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
            self("Input.dispatchKeyEvent", type="keyUp", key=key)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own; downloads lie in the folder's ``downloads``."""
    (folder / "downloads").mkdir(parents=True, exist_ok=True)
    (page_in, to_page), (from_page, page_out) = os.pipe(), os.pipe()
    quiet = ("--no-first-run", "--disable-sync", "--disable-background-networking")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", *quiet]
    command.append(f"--user-data-dir={folder / 'profile'}")

    def connect() -> None:  # the browser reads commands from descriptor 3 and writes to 4
        inputs, outputs = os.dup(page_in), os.dup(page_out)
        os.dup2(inputs, 3)
        os.dup2(outputs, 4)

    process = subprocess.Popen(
        command, preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(page_in)
    os.close(page_out)
    try:
        yield Browser(from_page, to_page, folder / "downloads")
    finally:
        process.terminate()
        process.wait(TIME_LIMIT)
        os.close(from_page)
        os.close(to_page)


def check_page(page: Path, folder: Path) -> None:
    """Check that a page has text, no errors and nothing that is wider than a phone's or a desk's screen."""
    copy = Path(shutil.copy(page, folder))
    with chromium(folder) as tab:
        for width in (390, 1280):
            tab.open(copy, width)
            root = "document.documentElement"
            assert tab.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
            assert len(tab.evaluate("document.body.innerText")) > 1000
        assert not tab.errors
        copy.write_text(copy.read_text().replace("</main>", "<script>nothing()</script></main>"))
        tab.open(copy, width)
        assert tab.errors  # this check would see an error
