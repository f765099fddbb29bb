#!/usr/bin/env python3
"""Spreads the shards of `openvla eval run` over a Ray cluster and merges them.

    ray_eval.py --shards 64 --cpus 8 --parts /shared/parts --out /shared/result -- \\
        --checkpoint /shared/checkpoint --unnorm-key bridge_orig --bag /shared/episodes/* \\
        --image-topic /camera/image --instruction-topic /instruction --action-topic /action

Everything behind `--` goes to each `openvla eval run`; bags, checkpoint and the two folders must
have the same paths on all nodes. Each worker is an actor of Ray that reserves --cpus CPUs and runs
one `openvla eval run --shards-on-stdin` with as many --threads: the policy is loaded once for all
shards of that worker. With `--remote ADDRESS` behind `--` the workers evaluate a server's policy.

A worker or a node that is lost is replaced. A shard that fails is evaluated --retries times more,
by a newly loaded policy, from its first missing frame on. The same command resumes an evaluation:
complete shards are left as they are.

Without --address, Ray starts on this machine alone, on the loopback interface; with it, the
cluster at that address is used (`auto`: the one that this machine belongs to). Exit status: 0 when
the merged report is complete, else 1, with one line on stderr.
"""

import argparse
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOPBACK = "127.0.0.1"
START_ATTEMPTS = 4
# Options that this program passes to `openvla eval run` itself.
OWN = ("--shard", "--shards-on-stdin", "--threads", "--out", "--quiet", "--json", "--overwrite")
# Seconds between two lines about progress.
PROGRESS_S = 15


class Failed(Exception):
    """The evaluation cannot be completed; the text is one line for the user."""


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], usage="%(prog)s OPTIONS -- OPENVLA_EVAL_RUN_OPTIONS"
    )
    parser.add_argument("--shards", type=positive, required=True, help="number of shards")
    parser.add_argument("--cpus", type=positive, default=1, help="CPUs per worker (default 1)")
    parser.add_argument("--parts", type=Path, required=True, help="folder for the shards' folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the merged report")
    parser.add_argument("--retries", type=int, default=2, help="per shard (default 2)")
    parser.add_argument("--openvla", default="openvla", help="the program, if not on the PATH")
    parser.add_argument("--address", help="an existing cluster; default: Ray on this machine alone")
    parser.add_argument("--workers", type=positive, help="workers (default: as CPUs allow)")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="merge what there is when shards failed; the exit status is 1 all the same",
    )
    split = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:split]), argv[split + 1 :]
    if not command:
        parser.error("no options for `openvla eval run`; write them behind `--`")
    for name in OWN:
        if has(command, name):
            parser.error(f"{name} is passed to each shard by this program; remove it behind `--`")
    return options, command


def has(command, name):
    return any(argument == name or argument.startswith(name + "=") for argument in command)


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is below 1")
    return value


def start_ray(options, folder):
    """Connects to the cluster, or starts Ray on this machine alone with its files in `folder`.
    Returns the module and how many workers fit."""
    # Ray and its processes read these when they start.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    own = options.workers or (os.cpu_count() or 1) // options.cpus
    if options.address is None:
        check_capacity(options.cpus, own)
        # Despite its name, on all systems: without it Ray replaces 127.0.0.1 by the address of a
        # network interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray would run the policy at niceness 15.
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise Failed(f"Ray is not installed ({error}); run tools/eval/setup") from None
    logging = {"log_to_driver": False, "logging_level": "error"}
    if options.address is not None:
        try:
            ray.init(address=options.address, **logging)
        except Exception as error:  # Ray's types differ between versions
            raise Failed(f"no Ray cluster at {options.address}: {one_line(error)}") from None
        nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        fitting = sum(int(cpus) // options.cpus for cpus in nodes)
        check_capacity(options.cpus, fitting)
        return ray, options.workers or fitting
    local = {
        "num_cpus": options.cpus * options.workers if options.workers else os.cpu_count(),
        "include_dashboard": False,
        "object_store_memory": 100 << 20,
        "_node_ip_address": LOOPBACK,
        "_temp_dir": folder,
    }
    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(**local, **logging)
            return ray, own
        except Exception as error:
            # On a busy machine Ray's processes may exceed its fixed limit of 30 s.
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise Failed(f"Ray does not start: {one_line(error)}") from None


def check_capacity(cpus, workers):
    """Without it, a worker that needs more CPUs than any node has would be waited for for ever."""
    if workers < 1:
        raise Failed(f"--cpus is {cpus}, more than any node has; reserve fewer")


class Worker:
    """An actor of Ray that owns an `openvla eval run --shards-on-stdin`."""

    def __init__(self, command):
        self.command, self.process, self.errors = command, None, None

    def ready(self):
        """Returns as soon as Ray has placed the actor."""

    def evaluate(self, shard):
        """Evaluates a shard and returns the number of its frames. Raises the error's line, after
        which the next shard gets a new process: what failed may be the device."""
        if self.process is None:
            self.start()
        try:
            self.process.stdin.write(f"{shard}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line.endswith("\n") else {}
        if "frames" in answer:
            return answer["frames"]
        raise RuntimeError(self.end(answer.get("error")))

    def start(self):
        def end_with_parent():  # a killed worker must not leave its command behind
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG

        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            preexec_fn=end_with_parent,
        )

    def end(self, reason=None):
        """Ends the process; returns the reason, or else the last line of its stderr."""
        if reason is not None:
            self.process.kill()
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read()[-4096:].decode(errors="replace").strip().splitlines()
        with contextlib.suppress(BrokenPipeError):  # what it has not read is of no use
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()
        self.process = None
        if reason is None and status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        return reason or (lines or [f"its process ended with status {status}"])[-1]


class Evaluation:
    """The shards, and the workers that evaluate them."""

    def __init__(self, ray, options, command, workers):
        self.ray, self.options = ray, options
        self.command = [options.openvla, "eval", "run", *command, "--shards-on-stdin", "--quiet"]
        self.command += ["--out", str(options.parts)]
        if not has(command, "--remote"):
            self.command += ["--threads", str(options.cpus)]
        self.actor = ray.remote(num_cpus=options.cpus)(Worker)
        self.workers = min(workers, options.shards)
        self.waiting = collections.deque(range(options.shards))
        self.tries = [0] * options.shards
        self.done, self.failed = 0, {}
        # What is under way: the worker, and its shard or None while it is being placed.
        self.running, self.idle = {}, []
        self.lost_starts = 0
        self.started, self.printed, self.frames_before = time.monotonic(), 0.0, self.frames()

    def run(self):
        """Evaluates all shards; returns the reasons of those that failed for good."""
        for _ in range(self.workers):
            self.add()
        while self.done + len(self.failed) < self.options.shards:
            while self.idle and self.waiting:
                worker, shard = self.idle.pop(), self.waiting.popleft()
                call = worker.evaluate.remote(f"{shard}/{self.options.shards}")
                self.running[call] = worker, shard
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=1)
            for call in ready:
                self.take(call, *self.running.pop(call))
            self.progress()
        return self.failed

    def add(self):
        worker = self.actor.remote(self.command)
        self.running[worker.ready.remote()] = worker, None

    def take(self, call, worker, shard):
        """Takes the result of a call."""
        try:
            self.ray.get(call)
        except self.ray.exceptions.RayActorError as error:
            # Its process or its node is gone, or out of reach; then it must not go on.
            self.ray.kill(worker)
            self.lost(shard, error)
            self.add()
            return
        except Exception as error:  # the evaluation's
            self.again(shard, one_line(getattr(error, "cause", None) or error))
        else:
            if shard is not None:
                self.done += 1
                total = self.options.shards
                left = total - self.done - len(self.failed)
                self.say(f"shard {shard}/{total} is done, {left} left")
        self.idle.append(worker)

    def lost(self, shard, error):
        reason = f"a worker was lost: {one_line(error)}"
        if shard is not None:
            return self.again(shard, reason)
        self.lost_starts += 1
        if self.options.retries + self.workers < self.lost_starts:
            raise Failed(f"{self.lost_starts} workers were lost while they started: {reason}")

    def again(self, shard, reason):
        """A shard has failed: it is evaluated again, if it may be."""
        self.tries[shard] += 1
        if self.options.retries < self.tries[shard]:
            self.failed[shard] = reason
            return
        self.waiting.append(shard)
        self.say(f"shard {shard}/{self.options.shards} is evaluated again: {reason}")

    def frames(self):
        """Finished frames, as far as the shards' folders can be read here."""
        count = 0
        for path in self.options.parts.glob("[0-9]*/journal.jsonl"):
            with open(path, "rb") as journal:
                count += max(0, sum(1 for _ in journal) - 1)
        return count

    def progress(self):
        now = time.monotonic()
        if now - max(self.started, self.printed) < PROGRESS_S:
            return
        self.printed, frames = now, self.frames()
        rate = (frames - self.frames_before) / (now - self.started)
        busy = sum(shard is not None for _, shard in self.running.values())
        self.say(
            f"{self.done} of {self.options.shards} shards, {frames} frames, {rate:.1f} frames/s, "
            f"{busy} of {self.workers} workers busy"
        )

    @staticmethod
    def say(line):
        print(line, flush=True)


def one_line(error):
    return " ".join(str(error).split())


def merge(options, partial):
    parts = [options.parts / str(index) for index in range(options.shards)]
    if partial:
        parts = [part for part in parts if (part / "report.json").exists()]
    command = [options.openvla, "eval", "merge", *map(str, parts), "--out", str(options.out)]
    if subprocess.run(command + ["--partial"] * partial).returncode != 0:
        raise Failed("the shards could not be merged")


def main(argv):
    options, command = parse(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
            ray, workers = start_ray(options, folder)
            try:
                failed = Evaluation(ray, options, command, workers).run()
            finally:
                # Ends the processes of a local Ray; disconnects from a cluster.
                ray.shutdown()
        if not failed or options.partial:
            merge(options, bool(failed))
        if failed:
            index, reason = min(failed.items())
            raise Failed(
                f"{len(failed)} of {options.shards} shards failed after {options.retries} "
                f"retries, the first is {index}/{options.shards}: {reason}"
            )
    except Failed as error:
        print(f"ray_eval: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
