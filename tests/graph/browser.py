"""A headless Chromium driven over the DevTools protocol on a pipe; nothing beyond the browser.

`find()` gives the program that CHROMIUM names, or one of the usual names; None without any.
"""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find():
    named = os.environ.get("CHROMIUM")
    if named:
        assert shutil.which(named), f"CHROMIUM is {named}, which does not run"
        return named
    return next((name for name in NAMES if shutil.which(name)), None)


class Browser:
    """One page. `errors` are exceptions and error messages of the page so far."""

    def __init__(self, program):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # The browser reads commands from descriptor 3 and writes to 4; the ends here are moved
        # out of the way of these numbers first.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (*os.pipe(), *os.pipe())]
        to_read, to_write, from_read, from_write = ends

        def place():
            os.dup2(to_read, 3)
            os.dup2(from_write, 4)

        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.profile.name}",
            "about:blank",
        ]
        quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # A group of its own, so that its helpers end with it.
        self.process = subprocess.Popen(
            command, preexec_fn=place, pass_fds=(3, 4), start_new_session=True, **quiet
        )
        os.close(to_read)
        os.close(from_write)
        self.writer = os.fdopen(to_write, "wb", buffering=0)
        self.reader = os.fdopen(from_read, "rb", buffering=0)
        self.rest, self.number, self.session, self.errors = b"", 0, None, []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def close(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.writer.close()
        self.reader.close()
        self.profile.cleanup()

    def message(self):
        while b"\0" not in self.rest:
            data = self.reader.read(1 << 16)
            assert data, "the browser ended"
            self.rest += data
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def command(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.writer.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.note(answer)

    def note(self, event):
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"]["text"])
        entry = parameters.get("entry", {})
        if event.get("method") == "Log.entryAdded" and entry.get("level") == "error":
            self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    def resize(self, width, height):
        phone = width < 600
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def open(self, url):
        self.command("Page.navigate", url=url)

    def run(self, script):
        """The value of a JavaScript expression."""
        answer = self.command("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def click(self, selector):
        """Presses and releases the mouse in the middle of an element."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self.command(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    def until(self, what, script, turn, timeout=15.0):
        """Waits until an expression holds; calls `turn` meanwhile. Seconds that it took."""
        begin = time.monotonic()
        while not self.run(script):
            shown = self.run("document.body && document.body.innerText")
            assert time.monotonic() - begin < timeout, f"not within {timeout} s: {what}\n{shown}"
            turn()
        return time.monotonic() - begin

    def screenshot(self, path):
        data = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
