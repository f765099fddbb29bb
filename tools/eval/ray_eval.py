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
from pathlib import Path

LOOPBACK = "127.0.0.1"
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
    parser.add_argument("--workers", type=positive, help="without --address: shards at a time")
    own, separator, command = list(argv), None, []
    if "--" in own:
        separator = own.index("--")
        own, command = own[:separator], own[separator + 1 :]
    options = parser.parse_args(own)
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


def start_ray(options):
    """Connects to the cluster, or starts Ray on the loopback interface. Returns the module."""
    # Read when the module is imported and by the processes that it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if options.address is None:
        os.environ["RAY_NODE_IP_ADDRESS"] = LOOPBACK
        os.environ["RAY_raylet_start_wait_time_s"] = "120"
    try:
        import ray
    except ImportError as error:
        raise Failed(f"Ray is not installed ({error}); see tools/eval/requirements-ray.txt") from None
    try:
        if options.address is not None:
            ray.init(address=options.address, log_to_driver=False, logging_level="error")
            return ray
        cpus = options.cpus * options.workers if options.workers else None
        ray.init(
            num_cpus=cpus,
            include_dashboard=False,
            _node_ip_address=LOOPBACK,
            log_to_driver=False,
            logging_level="error",
        )
    except Exception as error:  # Ray's own types differ between versions
        raise Failed(f"Ray does not start: {one_line(error)}") from None
    return ray


def check_capacity(ray, cpus):
    """A task that needs more CPUs than any node has would wait for ever."""
    largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if cpus > largest:
        raise Failed(f"--cpus is {cpus}, the largest node has {largest:g} CPUs; reserve fewer")


def run_shard(command):
    """Runs one shard on a worker. Raises the last line of its stderr when it fails."""
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])


def evaluate(ray, options, command):
    """Evaluates all shards; returns their folders."""
    # `max_retries` alone concerns lost workers; a command that fails is an exception.
    task = ray.remote(
        num_cpus=options.cpus, max_retries=options.retries, retry_exceptions=True
    )(run_shard)
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
        ray = start_ray(options)
        try:
            check_capacity(ray, options.cpus)
            parts = evaluate(ray, options, command)
        finally:
            # Ends the processes of a local Ray; leaves a cluster as it was.
            ray.shutdown()
        merge(options, parts)
    except Failed as error:
        print(f"ray_eval: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
