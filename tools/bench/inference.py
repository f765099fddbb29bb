#!/usr/bin/env python3
"""Compares the inference time of a model of real width with plain PyTorch.

The model: OpenVLA's vision towers and projector with a Llama reduced to 2048 x 8 layers, random
weights (examples/make_checkpoint), one 640x480 image, 7 tokens. Both programs read the same folder
and must generate the same tokens. Rounds alternate, so that a temporary load affects both. PyTorch
is searched in OPENVLA_BENCH_PYTHON, then in python3; without it only our own times are printed.

    tools/bench/inference.py [--rounds 3] [--repeats 3] [--threads 0] [--checkpoint DIR]
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
IMAGE = ROOT / "tests/data/openvla_tiny/images/00_640x480_RGB.png"
STAGES = ["preprocess", "vision", "projector", "prefill", "decode", "total"]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"inference.py: {command[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def python_with_torch():
    for candidate in filter(
        None, [os.environ.get("OPENVLA_BENCH_PYTHON"), shutil.which("python3")]
    ):
        probe = [candidate, "-c", "import torch, numpy, PIL, safetensors, tokenizers"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return candidate
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--checkpoint", type=Path, default=TARGET / "bench/cut")
    arguments = parser.parse_args()
    subprocess.run(
        [
            "cargo",
            "build",
            "--release",
            "--quiet",
            "--bin",
            "openvla",
            "--example",
            "make_checkpoint",
        ],
        check=True,
        cwd=ROOT,
    )
    if not (arguments.checkpoint / "config.json").exists():
        print(f"generating {arguments.checkpoint} (2.6 GB)", flush=True)
        generator = TARGET / "release/examples/make_checkpoint"
        subprocess.run(
            [generator, "--preset", "cut", "--seed", "1", "--out", arguments.checkpoint], check=True
        )
    threads = arguments.threads or len(os.sched_getaffinity(0))
    common = [
        "--checkpoint",
        arguments.checkpoint,
        "--image",
        IMAGE,
        "--repeats",
        str(arguments.repeats),
        "--threads",
        str(threads),
    ]
    ours = [
        TARGET / "release/openvla",
        "bench",
        *common,
        "--decode",
        "actions",
        "--unnorm-key",
        "bridge_orig",
        "--json",
    ]
    python = python_with_torch()
    theirs = python and [
        python,
        ROOT / "tools/bench/pytorch_reference.py",
        *common,
        "--actions-only",
    ]
    if not python:
        print(
            "PyTorch not found (set OPENVLA_BENCH_PYTHON to a python with torch, numpy, pillow,"
            " safetensors, tokenizers): no comparison"
        )
    times = {"openvla": {}, "torch": {}}
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}", flush=True)
        result = run(list(map(str, ours)))
        tokens = result["token_ids"]
        for stage in STAGES:
            times["openvla"].setdefault(stage, []).append(result["milliseconds"][stage]["p50"])
        if theirs:
            result = run(list(map(str, theirs)))
            version = result["torch"]
            if result["token_ids"] != tokens:
                sys.exit(
                    f"inference.py: tokens differ: ours {tokens}, PyTorch {result['token_ids']}"
                )
            for stage in STAGES:
                times["torch"].setdefault(stage, []).append(result["milliseconds"][stage])
    print(
        f"\n{threads} threads, float32, medians of {arguments.rounds} rounds of"
        f" {arguments.repeats}, ms"
    )
    print(
        f"{'stage':<12} {'openvla_tt':>12}"
        + (f" {'torch ' + version:>18} {'ours/theirs':>12}" if theirs else "")
    )
    for stage in STAGES:
        mine = statistics.median(times["openvla"][stage])
        line = f"{stage:<12} {mine:>12.1f}"
        if theirs:
            other = statistics.median(times["torch"][stage])
            line += f" {other:>18.1f} {mine / other:>12.2f}"
        print(line)
    if theirs:
        print("tokens equal")


if __name__ == "__main__":
    main()
