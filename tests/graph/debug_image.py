"""~/debug_image: not there by default; with `debug_image_hz` a picture that changes with the
instruction, the state and the camera, drawn only while somebody subscribes, without delaying the
commands.

OPENVLA_TT_DEBUG_IMAGE names a folder in which the pictures are kept.
"""

import os
import pathlib
import tempfile
import time

import numpy
from PIL import Image as Picture
from sensor_msgs.msg import Image

import peer
from peer import KIT, PATIENT, RELIABLE, NodeProcess, Peer, kit_cases, pixels
from peer import slow_policy_file

CASE, HZ = 8, 2.0
WIDTH = 480
# Colours that src/ros/debug_image/draw.rs fills with.
RUNNING, HOLDING, ESTOPPED, DESIRED = (30, 120, 60), (240, 180, 40), (190, 30, 30), (250, 210, 80)
RATE_HZ = 10.0
SECONDS = 2.5  # of commands, with and without pictures
# The thread that draws gives way to everything else on a busy machine.
PATIENCE_S = 90.0


class Screen:
    """Subscribes to the pictures and keeps the newest one."""

    def __init__(self, graph):
        self.graph, self.count, self.message = graph, 0, None
        topic = f"{graph.vla}/debug_image"
        self.subscription = graph.node.create_subscription(Image, topic, self.take, RELIABLE)

    def take(self, message):
        self.count, self.message = self.count + 1, message

    def array(self):
        message = self.message
        assert (message.encoding, message.step, message.width) == ("rgb8", 3 * WIDTH, WIDTH)
        assert len(message.data) == message.step * message.height, message.height
        shape = (message.height, message.width, 3)
        return numpy.frombuffer(bytes(message.data), numpy.uint8).reshape(shape)

    def next(self, what="a picture"):
        """A picture that was begun after now."""
        now = self.graph.node.get_clock().now().nanoseconds

        def newer():
            stamp = self.message and self.message.header.stamp
            return stamp and now < stamp.sec * 1_000_000_000 + stamp.nanosec

        self.graph.until(what, newer, PATIENCE_S)
        return self.array()

    def shows(self, colour, least=3000):
        """Waits for a picture with so many pixels of a colour."""

        def shown():
            return self.message and least <= count(self.array(), colour)

        self.graph.until(f"a picture with {colour}", shown, PATIENCE_S)
        return self.array()

    def close(self):
        self.graph.node.destroy_subscription(self.subscription)


def count(array, colour):
    return int(numpy.all(array == colour, axis=-1).sum())


def start(executable, logs, **more):
    folder = tempfile.mkdtemp()
    logs.append(f"{folder}/node.log")
    return NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(KIT / "ckpt"),
        policy_file=slow_policy_file(folder, HZ),
        **PATIENT,
        faults_to_latch=8,
        rearm_window_s=60.0,
        **more,
    )


def save(array, name):
    folder = os.environ.get("OPENVLA_TT_DEBUG_IMAGE")
    if folder:
        Picture.fromarray(array).save(pathlib.Path(folder) / f"{name}.png")


def scenario(executable, logs):
    cases = kit_cases()
    off_by_default(executable, logs, cases)
    node = start(executable, logs, debug_image_hz=RATE_HZ)
    graph = Peer()
    try:
        graph.run(cases[CASE])
        screen = Screen(graph)
        picture(graph, screen, cases)
        states(graph, screen, cases)
        punctuality(graph, screen, node)
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


def off_by_default(executable, logs, cases):
    """Without the parameter nothing is advertised, and no thread runs."""
    node, graph = start(executable, logs), Peer()
    try:
        graph.run(cases[CASE])
        names = dict(graph.node.get_topic_names_and_types())
        assert "/vla/status" in names and "/vla/debug_image" not in names, names
        assert "debug-image" not in threads(node)
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()


def threads(node):
    tasks = pathlib.Path(f"/proc/{node.process.pid}/task").iterdir()
    return {(task / "comm").read_text().strip() for task in tasks}


def picture(graph, screen, cases):
    """Camera and instruction are those of the node."""
    running = screen.shows(RUNNING)
    save(running, "debug_image_running")
    assert 100 < count(running, DESIRED), "the policy's step is drawn"
    # The camera below instruction and state: its mean is that of the picture that is filmed.
    filmed = pixels(cases[CASE])
    height = filmed.shape[0] * WIDTH // filmed.shape[1]
    camera = next(
        running[top : top + height]
        for top in range(20, running.shape[0] - height)
        if numpy.abs(small(running[top : top + height]) - small(filmed)).mean() < 4.0
    )
    assert camera.shape == (height, WIDTH, 3)
    before = screen.next()[:20]
    graph.say(cases[0]["instruction"])
    graph.until("the instruction", lambda: graph.instruction() == cases[0]["instruction"])
    screen.next()
    after = screen.next()[:20]
    assert numpy.any(before != after), "another instruction is drawn"
    graph.say(cases[CASE]["instruction"])
    graph.until("the instruction", lambda: graph.instruction() == cases[CASE]["instruction"])
    screen.next()
    assert numpy.array_equal(screen.next()[:20], before), "the same instruction, the same pixels"


def small(array):
    return numpy.asarray(Picture.fromarray(array).resize((24, 18)), float)


def states(graph, screen, cases):
    """State and reason are drawn: the camera lost, an emergency stop."""
    graph.dark()
    save(screen.shows(HOLDING), "debug_image_holding")
    graph.film(pixels(cases[CASE]))
    screen.shows(RUNNING)
    assert graph.estop().success
    save(screen.shows(ESTOPPED), "debug_image_estopped")
    graph.reset_when_possible()
    graph.enable_when_possible()
    graph.resume()


def drawing(node):
    """Whether the thread that draws is idle, and its processor time in hundredths of a second."""
    for task in pathlib.Path(f"/proc/{node.process.pid}/task").iterdir():
        name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        if name == "debug-image":
            fields = rest.split()
            return fields[0] == "S", sum(map(int, fields[11:13]))
    raise AssertionError("no thread draws")


def unwatched(graph, node):
    """Waits until the node knows that nobody subscribes, and the last picture is done."""
    idle = []

    def done():
        idle.append(drawing(node)[0])
        return 200 < len(idle) and all(idle[-200:])

    graph.until("the last picture is done", done, PATIENCE_S)


def punctuality(graph, screen, node):
    """Intervals of the commands with and without pictures, and their rate."""
    rows = {}
    for on in (True, False):
        screen.close()
        if on:
            screen = Screen(graph)
            screen.next()
        else:
            unwatched(graph, node)
        drawn, begin, started = screen.count, len(graph.twists), time.monotonic()
        ticks = drawing(node)[1]
        graph.spin(SECONDS)
        took = time.monotonic() - started
        stamps = [m.header.stamp for _, m in graph.twists[begin:]]
        stamps = numpy.array([stamp.sec + stamp.nanosec * 1e-9 for stamp in stamps])
        late = numpy.abs(numpy.diff(stamps) - 0.02) * 1e3
        rows[on] = (screen.count - drawn) / took
        ticks = drawing(node)[1] - ticks
        print(
            f"{'with' if on else 'without'} pictures ({rows[on]:.1f} Hz): {len(stamps)} commands, "
            f"interval off by {numpy.median(late):.3f} ms (median), "
            f"{numpy.percentile(late, 99):.3f} ms (99 %), {late.max():.3f} ms (largest); "
            f"drawing took {ticks * 10.0 / took:.1f} ms of processor time per second"
        )
        assert on or ticks == 0, "nobody subscribes, nothing is drawn"
        assert len(stamps) > 30 * SECONDS, len(stamps)
    assert rows[True] <= RATE_HZ + 1.0, rows


if __name__ == "__main__":
    peer.main(scenario)
