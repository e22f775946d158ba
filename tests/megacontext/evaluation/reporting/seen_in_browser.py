"""A page as a real browser sees it. Speaks the browser's own protocol over a pipe, so nothing needs a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-zygote", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--no-first-run", "--remote-debugging-pipe"),
)
THERE = "location.protocol === 'file:' && document.readyState === 'complete'"


def browser() -> str:
    """$CHROMIUM, or one that is installed; without any, or without pipes of its kind, the test is skipped."""
    if sys.platform == "win32":
        pytest.skip("the browser is spoken to over pipes that Windows does not have")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    return found or pytest.skip("no Chromium is installed, and $CHROMIUM names none")


class Browser:
    """One browser without a window. patience: seconds until it must have answered."""

    def __init__(self, path: str, profile: Path, patience: float = 120.0) -> None:
        into, self._out = os.pipe()
        self._in, out_of = os.pipe()
        self.patience, self._number, self._rest = patience, 0, b""

        def wire() -> None:  # the browser reads from 3 and writes to 4
            read, write = os.dup(into), os.dup(out_of)
            os.dup2(read, 3)
            os.dup2(write, 4)

        command = [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command, preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(into)
        os.close(out_of)
        os.set_blocking(self._in, False)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *what: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The browser's answer to one command; empty if it failed."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": params}
        os.write(self._out, json.dumps({**command, **({"sessionId": session} if session else {})}).encode() + b"\0")
        until = time.monotonic() + self.patience
        while time.monotonic() < until:
            for answer in self._answers():
                if answer.get("id") == self._number:
                    return answer.get("result", {})
            time.sleep(0.05)
        raise TimeoutError(f"no answer to {method} in {self.patience} s")

    def value(self, session: str, expression: str) -> Any:
        found = self.call("Runtime.evaluate", session, expression=expression, returnByValue=True)
        return found.get("result", {}).get("value")

    def _answers(self) -> list[dict[str, Any]]:
        try:
            self._rest += os.read(self._in, 1 << 20)
        except BlockingIOError:
            return []
        *whole, self._rest = self._rest.split(b"\0")
        return [json.loads(one) for one in whole]


def ask(path: Path, profile: Path, expression: str) -> Any:
    """The value of a JavaScript expression on the page at `path`, once it is there."""
    with Browser(browser(), profile) as one:
        target = one.call("Target.createTarget", url=path.resolve().as_uri())["targetId"]
        session = one.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for _ in range(400):
            if one.value(session, THERE):  # None while one page gives way to the next
                return one.value(session, expression)
            time.sleep(0.1)
        raise TimeoutError(f"{path} was never there")
