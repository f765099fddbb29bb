"""Every way of ending the node while the robot is driven: speed before, time to zero, exit status.

An ending must ramp the command down. Only a third signal, or a second one after the ramp is
overdue, may cut it off.
"""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import time

import numpy
import peer
from peer import KIT, STOP_S, NodeProcess, Peer, kit_cases, slow_policy_file

# Time for the signal, the executor's turn, one nap of this peer and a busy machine.
SLACK_S = 0.3
# A case with a long step, at a rate that a busy machine keeps, and almost its speed in m/s.
CASE, HZ, FAST = 8, 2.0, 0.09
PARENT = """
import os, subprocess, sys, time
environment = dict(os.environ, OPENVLA_TT_PARENT_PID=str(os.getpid()))
child = subprocess.Popen(sys.argv[1:], env=environment, stdin=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(600)
"""
# A busy machine is no failure here: the robot only has to be in motion when the node is ended.
SETTINGS = dict(
    checkpoint=str(KIT / "ckpt"),
    policy_file=slow_policy_file(tempfile.mkdtemp(), HZ),
    unnorm_key="bridge_orig",
    autostart=True,
    dry_run=False,
    overrun_s=0.4,
    observation_timeout_s=10.0,
    stamp_past_tolerance_s=5.0,
    inference_timeout_s=20.0,
    inference_niceness=0,
)
ROWS = []


def send(*steps):
    """An ending: signals to the node, each after a pause in seconds."""

    def end(node):
        for pause, number in steps:
            time.sleep(pause)
            os.kill(node.pid, number)

    return end


def end_group(node):
    """What a terminal and a launcher do: the group's signal, and the same forwarded."""
    os.killpg(node.pid, signal.SIGINT)
    os.kill(node.pid, signal.SIGINT)


class Started:
    """A node, started in one of several ways, and its process id."""

    def __init__(self, executable, log, how):
        self.parent = self.master = None
        popen, settings = {}, SETTINGS
        if how == "closed stdout":
            reader, writer = os.pipe()
            popen = dict(stdout=writer, stderr=writer)
        elif how == "terminal":
            self.master, slave = pty.openpty()
            popen = dict(stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
            popen["preexec_fn"] = controlling_terminal
        elif how == "group":
            popen = dict(preexec_fn=os.setpgrp)
        elif how == "slow ramp":
            settings = SETTINGS | {"limits.linear.acceleration": 0.1}
        elif how == "parent":
            executable = [sys.executable, "-c", PARENT, *executable]
            popen = dict(stdout=subprocess.PIPE)
        self.node = NodeProcess(executable, log, popen=popen, **settings)
        self.pid = self.node.process.pid
        if how == "closed stdout":
            os.close(writer)
            os.close(reader)
        elif how == "terminal":
            os.close(slave)
        elif how == "parent":
            self.parent = self.node.process
            self.pid = int(self.parent.stdout.readline())

    def kill(self):
        if self.parent:
            self.parent.kill()
            self.parent.wait()
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
        self.node.process.kill()
        self.node.process.wait()
        self.node.log.close()

    def alive(self):
        if not self.parent:
            return self.node.process.poll() is None
        try:
            with open(f"/proc/{self.pid}/stat") as stat:
                return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False


def controlling_terminal():
    """Makes standard input the controlling terminal of the new session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def kill_parent(started):
    started.parent.send_signal(signal.SIGTERM)
    started.parent.wait()


def hang_up(started):
    os.close(started.master)


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
# Name, way of starting, ending, whether it ramps down, exit status (None: not our child).
CASES = [
    ("SIGINT", "", send((0.0, INT)), True, 0),
    ("SIGTERM, stdout closed before", "closed stdout", send((0.0, TERM)), True, 0),
    ("SIGHUP", "", send((0.0, HUP)), True, 0),
    ("SIGINT twice, 5 ms apart", "", send((0.0, INT), (0.005, INT)), True, 0),
    ("SIGINT twice, 0.1 s apart", "", send((0.0, INT), (0.1, INT)), True, 0),
    ("SIGINT, SIGTERM 5 ms later", "", send((0.0, INT), (0.005, TERM)), True, 0),
    ("group's SIGINT, and forwarded", "group", end_group, True, 0),
    ("terminal closed", "terminal", hang_up, True, 0),
    ("SIGTERM to the parent alone", "parent", kill_parent, True, None),
    ("SIGINT three times", "slow ramp", send((0.0, INT), (0.3, INT), (0.3, INT)), False, 130),
]


def scenario(executable, logs):
    # Under nohup the node would inherit an ignored SIGHUP, which it leaves ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    folder = tempfile.mkdtemp()
    before_ros(executable, f"{folder}/early.log")
    graph = Peer()
    try:
        for i, case in enumerate(CASES):
            logs[:] = [f"{folder}/{i}.log"]
            ending(graph, executable, logs[0], *case)
    finally:
        graph.close()
    print(f"\n{'ending':32} {'speed before':>12} {'time to zero':>12}  exit status")
    for name, speed, took, status in ROWS:
        shown = "cut off" if took is None else f"{took:.3f} s"
        print(f"{name:32} {speed:8.3f} m/s {shown:>12}  {status}")


def before_ros(executable, log):
    """A signal while ROS starts is an orderly stop too."""
    node = NodeProcess(executable, log, **SETTINGS)
    started = f"/proc/{node.process.pid}/status"
    end = time.monotonic() + 10.0
    while not caught(started, TERM):
        assert time.monotonic() < end, "no handler of SIGTERM is installed"
        time.sleep(0.001)
    status = node.stop(TERM)
    assert status == 0, f"{status}\n{node.text()}"


def caught(path, number):
    """Whether the process has installed a handler."""
    with open(path) as file:
        mask = next(line for line in file if line.startswith("SigCgt:"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def speed(twist):
    return float(numpy.linalg.norm(Peer.numbers(twist)[:3]))


def ending(graph, executable, log, name, how, end, ramps, status):
    gone = lambda: not graph.node.count_publishers("vla/status")
    graph.until("the node before is gone", gone, 30.0)
    graph.forget()
    started = Started(executable, log, how)
    try:
        graph.run(kit_cases()[CASE])
        graph.until("full speed", lambda: FAST <= speed(graph.twists[-1][1]), 60.0)
        before = speed(graph.twists[-1][1])
        at = time.monotonic()
        end(started)
        graph.until("the node has ended", lambda: not started.alive(), 30.0)
        # On a busy machine this peer is behind: its queue has the last commands.
        waiting = time.monotonic() + (3.0 if ramps else 0.5)
        while time.monotonic() < waiting and speed(graph.twists[-1][1]) != 0.0:
            graph.spin_once()
        last = speed(graph.twists[-1][1])
        ended = started.node.process.wait() if not started.parent else None
        zero = next((t for t, m in graph.twists if at <= t and speed(m) == 0.0), None)
        ROWS.append((name, before, zero - at if zero else None, ended))
        print(f"{name}: {before:.3f} m/s, last command {last:.3f} m/s, exit status {ended}")
        assert ended == status, f"{name}: exit status {ended}"
        if ramps:
            assert zero and last == 0.0, f"{name}: cut off at {last:.3f} m/s"
            assert zero - at <= STOP_S + SLACK_S, f"{name}: {zero - at:.3f} s"
            graph.check_limits()
        else:
            assert 0.0 < last, f"{name}: the third signal did not end the node at once"
    finally:
        graph.dark()
        started.kill()


if __name__ == "__main__":
    peer.main(scenario)
