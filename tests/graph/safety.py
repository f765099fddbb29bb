"""Stops without camera, e-stop latch, malformed messages and floods; every cause is named."""

import pathlib
import tempfile
import time

import numpy
from rcl_interfaces.srv import GetParameters

import peer
from peer import (
    POLICY_FILE,
    KIT,
    REASONS,
    STOP_S,
    NodeProcess,
    Peer,
    image_message,
    kit_cases,
    pixels,
)

OBSERVATION_TIMEOUT_S = 0.5
# How much later than promised a zero may be seen: one period of the loop, one nap of the peer, and
# a busy machine.
SLACK_S = 0.15
FLOOD_S = 2.5


def scenario(executable, logs):
    cases = kit_cases()
    folder = tempfile.mkdtemp()
    logs.append(f"{folder}/node.log")
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(KIT / "ckpt"),
        policy_file=POLICY_FILE,
        unnorm_key="bridge_orig",
        autostart=True,
        dry_run=False,
        overrun_s=0.4,
        observation_timeout_s=OBSERVATION_TIMEOUT_S,
        inference_timeout_s=2.0,
        record_directory=f"{folder}/records",
        # One trouble after the other: that three within 10 s latch is not the point here.
        faults_to_latch=8,
        fault_window_s=0.5,
    )
    graph = Peer()
    try:
        graph.run(cases[0])
        camera_stops(graph, cases)
        estop_and_reset(graph)
        malformed_images(graph, cases)
        instructions(graph, cases)
        flood(graph, node, cases)
        records(graph, f"{folder}/records")
        graph.check_limits()
        assert node.stop() == 0
    finally:
        graph.close()
        node.process.kill()
    quiet_by_default(executable, logs, cases)


def camera_stops(graph, cases):
    graph.dark()
    last_image = time.monotonic()
    took = graph.time_to_stop(last_image)
    promised = OBSERVATION_TIMEOUT_S + STOP_S
    assert took <= promised + SLACK_S, f"{took:.3f} s, promised {promised:.3f} s"
    graph.until(
        "the cause is named", lambda: graph.reason == "IMAGE_STALE" and graph.state == "HOLDING"
    )
    assert "limit 0.500 s" in graph.status.detail, graph.shown()
    print(
        f"camera stops: zero {took:.3f} s after the last image, promised {promised:.3f} s; "
        f"{graph.status.detail}"
    )
    graph.film(pixels(cases[0]))
    graph.resume()
    # If motion has resumed by itself, that was announced.
    since = [m for at, m in graph.statuses if last_image + took < at]
    if all(m.enabled for m in since):
        assert any(0.0 < m.resumes_in_s <= 0.5 for m in since), since
    long_hold(graph, cases)


def long_hold(graph, cases):
    """A hold beyond rearm_window_s withdraws the enabling: returning images start no motion."""
    graph.dark()
    graph.until("the enabling is withdrawn", lambda: not graph.status.enabled, 20.0)
    withdrawn = [m for _, m in graph.statuses if m.enabled and 0.0 < m.enable_withdrawn_in_s]
    assert withdrawn and all(m.enable_withdrawn_in_s <= 2.0 for m in withdrawn), withdrawn
    refused = graph.enable()
    assert not refused.success and "IMAGE_STALE" in refused.message, refused
    reasons = graph.reasons(graph.status)
    assert reasons[0] == "NOT_ENABLED" and "IMAGE_STALE" in reasons, reasons
    graph.film(pixels(cases[0]))
    graph.until("images count again", lambda: "IMAGE_STALE" not in graph.reasons(graph.status))
    graph.spin(1.5)
    assert not graph.moving() and graph.state == "IDLE", graph.shown()
    print(f"camera away for longer than the window: {refused.message}")
    graph.enable_when_possible()
    graph.resume()


def estop_and_reset(graph):
    begin = time.monotonic()
    answer = graph.estop()
    assert answer.success
    took = graph.time_to_stop(begin)
    assert took <= STOP_S + SLACK_S, f"{took:.3f} s"
    graph.until("estopped", graph.in_state("ESTOPPED"))
    assert graph.status.latched and graph.reason == "ESTOP" and not graph.status.enabled
    refused = graph.enable()
    assert not refused.success and "reset" in refused.message, refused
    graph.spin(0.5)
    assert not graph.moving() and graph.state == "ESTOPPED"
    assert graph.estop().success, "always succeeds"
    too_soon = graph.reset()
    assert not too_soon.success, too_soon
    graph.reset_when_possible()
    graph.until("idle after reset", graph.in_state("IDLE"))
    graph.spin(0.5)
    assert not graph.moving() and graph.reason == "NOT_ENABLED", "a reset never starts a motion"
    graph.enable_when_possible()
    graph.until("moving again", lambda: graph.state == "RUNNING" and graph.moving())
    assert graph.enable(False).success
    off = time.monotonic()
    took_off = graph.time_to_stop(off)
    assert took_off <= STOP_S + SLACK_S
    graph.enable_when_possible()
    graph.until("moving again", lambda: graph.state == "RUNNING" and graph.moving())
    print(
        f"e-stop: zero {took:.3f} s after the call, promised {STOP_S:.3f} s; "
        f"disable: {took_off:.3f} s"
    )


def malformed_images(graph, cases):
    good = pixels(cases[0])

    def wrong_size():
        message = image_message(peer.noisy(good, next(graph.shots)), "rgb8", graph.stamp())
        message.data = message.data[:-1]
        return message

    def wrong_step():
        message = image_message(peer.noisy(good, next(graph.shots)), "rgb8", graph.stamp())
        message.step = 5
        return message

    def huge():
        message = image_message(peer.noisy(good, next(graph.shots)), "rgb8", graph.stamp())
        message.height, message.width, message.step = 2**32 - 1, 2**32 - 1, 2**32 - 1
        return message

    def empty():
        message = image_message(peer.noisy(good, next(graph.shots)), "rgb8", graph.stamp())
        message.height = message.width = message.step = 0
        message.data = b""
        return message

    def unknown():
        return image_message(
            peer.noisy(good, next(graph.shots)), "bayer_rggb8" + "x" * 5000, graph.stamp()
        )

    for make, reason in (
        (wrong_size, "IMAGE_MALFORMED"),
        (wrong_step, "IMAGE_MALFORMED"),
        (huge, "IMAGE_UNSUPPORTED"),
        (empty, "IMAGE_UNSUPPORTED"),
        (unknown, "IMAGE_UNSUPPORTED"),
    ):
        rejected = graph.status.images_rejected

        def shoot():
            graph.image.publish(make())
            return 0.1

        graph.camera, begin = shoot, time.monotonic()
        took = graph.time_to_stop(begin)
        graph.until(
            f"{make.__name__} is named",
            lambda: (
                reason in graph.reasons(graph.status)
                and graph.state in ("HOLDING", "IDLE", "FAULT")
                or graph.state == "FAULT"
            ),
        )
        graph.until("rejections are counted", lambda: rejected < graph.status.images_rejected)
        assert "image refused" in graph.status.detail and len(graph.status.detail) < 2500, (
            graph.shown()
        )
        print(
            f"malformed image ({make.__name__}): zero after {took:.3f} s; "
            f"{graph.status.detail[:150]}"
        )
        graph.film(good)
        recover(graph)


def recover(graph):
    """Whatever the state: running again. Three faults within 10 s latch, as they should."""
    graph.until("settled", lambda: graph.state in ("RUNNING", "FAULT", "IDLE"))
    if graph.state == "FAULT":
        assert graph.reason == "REPEATED_FAULTS" and graph.status.latched, graph.shown()
        graph.reset_when_possible()
    graph.resume()


def instructions(graph, cases):
    for text, reason in (
        ("", "NO_INSTRUCTION"),
        ("   ", "NO_INSTRUCTION"),
        ("x" * 10_000, "INSTRUCTION_REJECTED"),
        ("go\nOut: no", "INSTRUCTION_REJECTED"),
    ):
        begin = time.monotonic()
        graph.say(text)
        took = graph.time_to_stop(begin)
        graph.until(f"{reason}", lambda: reason in graph.reasons(graph.status))
        assert graph.status.instruction == "", graph.shown()
        if reason == "NO_INSTRUCTION":
            assert any("instruction on /instruction" in line for line in graph.status.cause_details)
        assert graph.state in ("HOLDING", "IDLE"), graph.shown()
        assert took <= STOP_S + SLACK_S + 0.1, f"{took:.3f} s"
        print(
            f"instruction {text[:12]!r:16} ({len(text)} bytes): zero after {took:.3f} s; "
            f"{graph.status.detail[:120]}"
        )
        graph.say(cases[0]["instruction"])
        recover(graph)


def records(graph, folder):
    """Faults have left flight records, and ~/dump leaves one more.

    An e-stop within two seconds of a fault is on the same record.
    """
    before = {path.name for path in pathlib.Path(folder).iterdir()}
    assert any("IMAGE_STALE" in name for name in before), before
    answer = graph.call(peer.Trigger, "dump", peer.Trigger.Request())
    assert answer.success, answer.message
    path = pathlib.Path(answer.message.split(" (")[0])
    data = path.read_bytes()
    assert (
        path.name not in before
        and data[:5] == b"\x89MCAP"
        and data[-8:-3] == b"\x89MCAP"
        and len(data) > 10_000
    ), answer.message
    print(f"flight records: {len(before)} by themselves, one requested: {answer.message}")


def flood(graph, node, cases):
    """200 images of 640 x 480 per second: bounded memory, steady command stream.

    A queue without a bound would grow by 180 MiB in a second.
    """
    before_mib = node.resident_mib()
    received, dropped = graph.status.images_received, graph.status.images_dropped
    twists = len(graph.twists)
    # Two pictures in turn, as a camera's noise makes them; made beforehand, because that takes
    # longer than there is time between two images.
    messages = [
        image_message(peer.noisy(pixels(cases[0]), shot), "rgb8", graph.stamp())
        for shot in range(2)
    ]
    begin, sent, peak = time.monotonic(), 0, 0.0
    while time.monotonic() < begin + FLOOD_S:
        if begin + sent / 200.0 <= time.monotonic():
            message = messages[sent % 2]
            message.header.stamp = graph.stamp()
            graph.image.publish(message)
            sent += 1
        graph.executor.spin_once(timeout_sec=0.0)
        if sent % 20 == 0:
            peak = max(peak, node.resident_mib())
    rate = (len(graph.twists) - twists) / FLOOD_S
    graph.film(pixels(cases[0]))
    graph.spin(1.2)
    received, dropped = (
        graph.status.images_received - received,
        graph.status.images_dropped - dropped,
    )
    print(
        f"flood: {sent} sent in {FLOOD_S} s, {received} received, {dropped} dropped, "
        f"command {rate:.1f} Hz, memory {before_mib:.0f} -> {peak:.0f} MiB"
    )
    # Together 130 MiB: twice what the node may keep.
    assert 150 < sent and 0 < received
    # Ten images in r2r's queue, some in the middleware, a few on their way through the node, 0.9
    # MiB each.
    assert peak - before_mib < 60, f"{peak - before_mib:.0f} MiB more"
    assert graph.state == "RUNNING", graph.shown()


def quiet_by_default(executable, logs, cases):
    """dry_run is the default: actions are published, commands are not."""
    logs.append(f"{tempfile.mkdtemp()}/dry.log")
    node = NodeProcess(
        executable,
        logs[-1],
        checkpoint=str(KIT / "ckpt"),
        policy_file=POLICY_FILE,
        unnorm_key="bridge_orig",
        autostart=True,
        overrun_s=0.4,
        inference_rate_hz=0.0,
    )
    graph = Peer()
    try:
        graph.run(cases[0], enable=False)
        graph.until("an action before anything is enabled", lambda: graph.actions)
        answer = graph.enable()
        assert answer.success and "dry_run" in answer.message, answer
        graph.until("actions", lambda: 5 < len(graph.actions))
        graph.film(pixels(cases[0]), hz=30.0)
        first = len(graph.statuses)
        graph.until(
            "two statuses 2 s apart",
            lambda: (
                first < len(graph.statuses)
                and graph.statuses[-1][1].images_received - graph.statuses[first][1].images_received
                > 30
            ),
        )
        first, last = graph.statuses[first][1], graph.statuses[-1][1]
        # At the policy file's 5 Hz, whatever the camera's rate. One more for what was under way.
        seconds = (
            last.header.stamp.sec
            - first.header.stamp.sec
            + 1e-9 * (last.header.stamp.nanosec - first.header.stamp.nanosec)
        )
        assert last.inferences - first.inferences <= 5.0 * seconds + 2, (seconds, first, last)
        (rate,) = graph.call(
            GetParameters, "get_parameters", GetParameters.Request(names=["inference_rate_hz"])
        ).values
        assert rate.double_value == 5.0, rate
        assert (
            not graph.twists
            and not graph.grippers
            and graph.status.dry_run
            and graph.reason == "DRY_RUN"
        ), graph.shown()
        print(f"dry run: {len(graph.actions)} actions, no command; {graph.status.detail}")
        assert node.stop(peer.signal.SIGTERM) == 0
    finally:
        graph.close()
        node.process.kill()


if __name__ == "__main__":
    peer.main(scenario)
