"""Headless Chromium, driven over pipes by its DevTools protocol: no package is needed for it.

References:
    Chrome DevTools Protocol, 1.3: Target, Page, Runtime, DOM.
"""

import base64
import json
import os
import shlex
import shutil
import subprocess
import time
from contextlib import contextmanager

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One page; what it complains about is collected."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._number, self._session = commands, answers, 0, None
        self.faults: list[str] = []
        self.requests: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _read(self):
        content = b""
        while not content.endswith(b"\0"):
            part = self._answers.read(1)
            assert part, "the browser has ended"
            content += part
        return content[:-1]

    def _note(self, event):
        kind, found = event.get("method"), event.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.faults.append(found["exceptionDetails"].get("text", "exception"))
        elif kind == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning"):
            self.faults.append(str(found["args"]))
        elif kind == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.faults.append(found["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])

    def open(self, url, width=1280, height=900):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Page.navigate", url=url)

    def value(self, expression):
        """The value of an expression of the page, awaited."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression, seconds=60.0):
        """Wait until an expression is true; one that cannot be computed yet is not."""
        expression = f"(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.value(expression):
                return
            time.sleep(0.05)
        raise TimeoutError(f"{expression}; the page says {self.value('document.body.innerText')}")

    def choose_files(self, selector, *paths):
        """What a user does in the dialog of a file input."""
        node = self.ask("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        files = [str(path) for path in paths]
        self.ask("DOM.setFileInputFiles", files=files, objectId=node["result"]["objectId"])

    def picture(self):
        """PNG of the window."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])


@contextmanager
def open_browser(folder):
    """A page of a browser of its own, with its profile in a folder."""
    assert CHROMIUM is not None
    (theirs, commands), (answers, ours) = os.pipe(), os.pipe()
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
    ]  # fmt: skip
    script = f"exec {shlex.join(words)} 3<&{theirs} 4>&{ours}"
    process = subprocess.Popen(
        ["bash", "-c", script], pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs)
    os.close(ours)
    try:
        with os.fdopen(commands, "wb") as writing, os.fdopen(answers, "rb") as reading:
            yield Page(writing, reading)
    finally:
        process.kill()
        process.wait()
