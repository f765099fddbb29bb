#!/usr/bin/env python3
"""Runs `openvla eval run` in shards on a Ray cluster and joins them with `openvla eval merge`.

    ray_eval.py --shards 16 --cpus 8 --parts /shared/parts --out /shared/result -- \\
        --checkpoint /shared/checkpoint --unnorm-key bridge_orig --bag /shared/episodes/* \\
        --image-topic /camera/image --instruction-topic /instruction --action-topic /action

Everything behind `--` goes to each `openvla eval run`; bags, checkpoint and the two folders must
have the same paths on all nodes. Each shard reserves --cpus CPUs and runs with as many --threads.
A shard whose command fails is retried --retries times and resumes at its first missing frame.

Without --address, Ray starts on this machine alone, on the loopback interface; with it, the
cluster at that address is used (`auto`: the one that this machine belongs to). Exit status: 0 when
the merged report is complete, else 1, with one line on stderr.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOOPBACK = "127.0.0.1"
START_ATTEMPTS = 4
# Options that this program passes to each shard itself.
OWN = ("--shard", "--threads", "--out", "--quiet", "--json")


class Failed(Exception):
    """The evaluation cannot be completed; the text is one line for the user."""


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], usage="%(prog)s OPTIONS -- OPENVLA_EVAL_RUN_OPTIONS"
    )
    parser.add_argument("--shards", type=positive, required=True, help="number of shards")
    parser.add_argument("--cpus", type=positive, default=1, help="CPUs per shard (default 1)")
    parser.add_argument("--parts", type=Path, required=True, help="folder for the shards' folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the merged report")
    parser.add_argument("--retries", type=int, default=2, help="per shard (default 2)")
    parser.add_argument("--openvla", default="openvla", help="the program, if not on the PATH")
    parser.add_argument("--address", help="an existing cluster; default: Ray on this machine alone")
    parser.add_argument(
        "--workers", type=positive, help="without --address: shards at a time (default: all CPUs)"
    )
    split = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:split]), argv[split + 1 :]
    if not command:
        parser.error("no options for `openvla eval run`; write them behind `--`")
    for name in OWN:
        if any(argument == name or argument.startswith(name + "=") for argument in command):
            parser.error(f"{name} is passed to each shard by this program; remove it behind `--`")
    return options, command


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is below 1")
    return value


def start_ray(options, folder):
    """Connects to the cluster, or starts Ray on this machine alone with its files in `folder`.
    Returns the module."""
    # Ray and its processes read these when they start.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if options.address is None:
        check_capacity(options.cpus, options.workers or (os.cpu_count() or 1) // options.cpus)
        # Despite its name, on all systems: without it Ray replaces 127.0.0.1 by the address of a
        # network interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
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
        largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        check_capacity(options.cpus, int(largest) // options.cpus)
        return ray
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
            return ray
        except Exception as error:
            # On a busy machine Ray's processes may exceed its fixed limit of 30 s.
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise Failed(f"Ray does not start: {one_line(error)}") from None


def check_capacity(cpus, shards_at_a_time):
    """Without it, a task that needs more CPUs than any node has would wait for ever."""
    if shards_at_a_time < 1:
        raise Failed(f"--cpus is {cpus}, more than any node has; reserve fewer")


def run_shard(command):
    """Runs one shard on a worker. Raises the last line of its stderr when it fails."""
    import ctypes
    import signal

    def end_with_parent():  # a killed worker must not leave its command behind
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG

    done = subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])


def evaluate(ray, options, command):
    """Evaluates all shards; returns their folders."""
    # `max_retries` alone concerns lost workers; a command that fails is an exception.
    task = ray.remote(num_cpus=options.cpus, max_retries=options.retries, retry_exceptions=True)(
        run_shard
    )
    parts = [options.parts / str(index) for index in range(options.shards)]
    waiting = {}
    for index, part in enumerate(parts):
        arguments = [options.openvla, "eval", "run", *command, "--quiet", "--out", str(part)]
        arguments += ["--threads", str(options.cpus), "--shard", f"{index}/{options.shards}"]
        waiting[task.remote(arguments)] = index
    failed = {}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        index = waiting.pop(done[0])
        try:
            ray.get(done[0])
            print(f"shard {index}/{options.shards} is done, {len(waiting)} left", flush=True)
        except Exception as error:
            failed[index] = cause(error)
    if failed:
        index, reason = min(failed.items())
        raise Failed(
            f"{len(failed)} of {options.shards} shards failed after {options.retries} retries, "
            f"the first is {index}/{options.shards}: {reason}"
        )
    return parts


def cause(error):
    """The reason of a failed task without Ray's traceback."""
    return one_line(getattr(error, "cause", None) or error)


def one_line(error):
    return " ".join(str(error).split())


def merge(options, parts):
    command = [options.openvla, "eval", "merge", *map(str, parts), "--out", str(options.out)]
    if subprocess.run(command).returncode != 0:
        raise Failed("the shards could not be merged")


def main(argv):
    options, command = parse(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
            ray = start_ray(options, folder)
            try:
                parts = evaluate(ray, options, command)
            finally:
                # Ends the processes of a local Ray; disconnects from a cluster.
                ray.shutdown()
        merge(options, parts)
    except Failed as error:
        print(f"ray_eval: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
