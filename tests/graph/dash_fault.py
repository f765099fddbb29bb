"""The operator page with a real fault, in a headless Chromium: the camera lost three times, the
latch, a reset that is refused while the cause lasts, and the way back. Screenshots are kept.

Arguments: VLA_NODE OPENVLA.
"""

import os
import pathlib
import tempfile

import browser
import peer
from dash import SIZES, Dash
from peer import KIT, PATIENT, NodeProcess, Peer, kit_cases, pixels, slow_policy_file

CASE, HZ = 8, 2.0
STATE = "document.getElementById('state')?.dataset.state"


class Page:
    """The page in the browser."""

    def __init__(self, program, dash, graph, pictures):
        self.window, self.graph, self.pictures = browser.Browser(program), graph, pictures
        self.window.resize(*SIZES[0])
        self.window.open(f"http://127.0.0.1:{dash.port}/")

    def turn(self):
        self.graph.spin(0.02)

    def state(self, name):
        self.window.until(name, f"{STATE} == '{name}'", self.turn)

    def text(self, element):
        return self.window.run(f"document.querySelector('{element}').innerText")

    def says(self, element, words):
        """Waits for words in an element."""
        found = f"document.querySelector('{element}').innerText.includes('{words}')"
        self.window.until(words, found, self.turn)

    def primary(self):
        """The button that stands out."""
        return self.window.run("[...document.querySelectorAll('.buttons .go')].map((b) => b.id)")

    def shoot(self, name):
        for width, height in SIZES:
            self.window.resize(width, height)
            self.graph.spin(0.5)
            wide = self.window.run("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{name}: {wide} px wider than the window of {width}"
            self.window.screenshot(self.pictures / f"{name}-{width}x{height}.png")
        self.window.resize(*SIZES[0])


def fault(page, graph, case):
    """Three losses of the camera within the window latch."""
    page.state("RUNNING")
    assert page.primary() == ["enable"]
    # On a busy machine further images may come late: the latch is then earlier.
    for _ in range(3):
        graph.dark()
        graph.until("stopped", graph.in_state("HOLDING", "FAULT"))
        if graph.state == "HOLDING":
            graph.film(pixels(case))
            graph.until("it goes on", graph.in_state("RUNNING", "FAULT"), 60.0)
    graph.dark()
    graph.until("latched", graph.in_state("FAULT"))
    page.state("FAULT")
    page.says("#reason", "REPEATED_FAULTS")
    page.says("#reason", "IMAGE_STALE")
    page.says("figcaption", "s old")
    assert page.primary() == ["reset"], "the way on stands out"
    page.shoot("fault")


def way_back(page, graph, case):
    page.window.click("#reset")
    page.says("#answer", "the cause is still there: IMAGE_STALE")
    assert graph.state == "FAULT"
    graph.film(pixels(case))

    def reset():
        page.window.click("#reset")
        page.turn()

    page.window.until("reset", f"{STATE} == 'IDLE'", reset)
    assert page.primary() == ["enable"]
    assert "s old" not in page.text("figcaption")
    assert not page.window.errors, page.window.errors


def scenario(arguments, logs):
    executable, openvla = arguments
    program = browser.find()
    if program is None:
        print("SKIPPED a fault in a browser: no Chromium (tools/test/browser, or CHROMIUM)")
        return
    case = kit_cases()[CASE]
    with tempfile.TemporaryDirectory() as folder:
        logs.append(f"{folder}/node.log")
        dash, graph, page = Dash(openvla), Peer(), None
        node = NodeProcess(
            [executable],
            logs[-1],
            checkpoint=str(KIT / "ckpt"),
            policy_file=slow_policy_file(folder, HZ),
            **PATIENT,
            fault_window_s=600.0,
            rearm_window_s=60.0,
            record_directory=f"{folder}/records",
        )
        pictures = pathlib.Path(os.environ.get("CARGO_TARGET_TMPDIR", folder)) / "screenshots"
        pictures.mkdir(exist_ok=True)
        try:
            graph.run(case)
            page = Page(program, dash, graph, pictures)
            fault(page, graph, case)
            way_back(page, graph, case)
            assert dash.stop() == 0
            assert node.stop() == 0
        finally:
            if page:
                page.window.close()
            for started in Dash.started:
                started.process.kill()
            graph.close()
    print(f"screenshots: {pictures}")


if __name__ == "__main__":
    peer.main(scenario)
