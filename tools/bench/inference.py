#!/usr/bin/env python3
"""Compares the inference time of a model of real width with plain PyTorch, in every precision.

The model: OpenVLA's vision towers and projector with a Llama reduced to 2048 x 8 layers, random
weights (examples/make_checkpoint), one 640x480 image, 7 tokens. Both programs read the same folder
and must generate the same tokens in float32; in other precisions the equal tokens are counted.
Rounds alternate, so that a temporary load affects all. PyTorch is searched in OPENVLA_BENCH_PYTHON,
then in python3; without it only our own times are printed.

    tools/bench/inference.py [--rounds 2] [--repeats 2] [--threads 0] [--checkpoint DIR]
        [--ours f32,bf16,int8] [--theirs float32,bfloat16,int8]
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
# Our precision, and the PyTorch number formats that stand beside it.
PAIRS = [("f32", "float32"), ("bf16", "bfloat16"), ("int8", "int8"), ("int8", "bfloat16")]


def run(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        return None, " ".join(done.stderr.strip().splitlines()[-1:])
    return json.loads(done.stdout), None


def python_with_torch():
    for candidate in filter(
        None, [os.environ.get("OPENVLA_BENCH_PYTHON"), shutil.which("python3")]
    ):
        probe = [candidate, "-c", "import torch, numpy, PIL, safetensors, tokenizers"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return candidate
    return None


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--checkpoint", type=Path, default=TARGET / "bench/cut")
    parser.add_argument("--ours", default="f32,bf16,int8", help="precisions, with commas")
    parser.add_argument("--theirs", default="float32,bfloat16,int8", help="PyTorch's")
    return parser.parse_args()


def build():
    """Builds the programs."""
    command = ["cargo", "build", "--release", "--quiet", "-p", "openvla_tt", "-p", "vla-inference"]
    command += ["--bin", "openvla", "--example", "make_checkpoint"]
    subprocess.run(command, check=True, cwd=ROOT)


def prepare(checkpoint):
    """Builds the programs, and generates the checkpoint where it is missing."""
    build()
    if not (checkpoint / "config.json").exists():
        print(f"generating {checkpoint} (2.6 GB)", flush=True)
        program = TARGET / "release/examples/make_checkpoint"
        subprocess.run(
            [program, "--preset", "cut", "--seed", "1", "--out", checkpoint], check=True
        )


def contestants(arguments):
    """(name, command) of every program and precision; the name is a pair."""
    threads = arguments.threads or len(os.sched_getaffinity(0))
    common = ["--checkpoint", arguments.checkpoint, "--image", IMAGE]
    common += ["--repeats", arguments.repeats, "--threads", threads]
    ours = [TARGET / "release/openvla", "bench", *common, "--json"]
    ours += ["--decode", "actions", "--unnorm-key", "bridge_orig"]
    listed = [
        (("ours", name), [*ours, "--precision", name]) for name in arguments.ours.split(",")
    ]
    python = python_with_torch()
    if not python:
        print(
            "PyTorch not found (set OPENVLA_BENCH_PYTHON to a python with torch, numpy, pillow,"
            " safetensors, tokenizers): no comparison"
        )
        return threads, listed
    theirs = [python, ROOT / "tools/bench/pytorch_reference.py", *common, "--actions-only"]
    for name in filter(None, arguments.theirs.split(",")):
        listed.append((("torch", name), [*theirs, "--dtype", name]))
    return threads, listed


def milliseconds(result):
    """Median per stage: ours are objects of percentiles, PyTorch's plain numbers."""
    stages = result["milliseconds"]
    return {
        stage: value["p50"] if isinstance(value, dict) else value
        for stage, value in stages.items()
    }


def measure(arguments, listed):
    times, tokens, facts = {}, {}, {}
    for number in range(arguments.rounds):
        for name, command in listed:
            if name in facts.get("failed", {}):
                continue
            print(f"round {number + 1} of {arguments.rounds}: {' '.join(name)}", flush=True)
            result, error = run(command)
            if error is not None:
                if name[0] == "ours":
                    sys.exit(f"inference.py: {' '.join(name)} failed: {error}")
                facts.setdefault("failed", {})[name] = error
                continue
            tokens[name] = result["token_ids"]
            for stage, value in milliseconds(result).items():
                times.setdefault(name, {}).setdefault(stage, []).append(value)
            facts.setdefault("ceilings", result.get("ceilings"))
            facts["torch"] = result.get("torch", facts.get("torch"))
    medians = {
        name: {stage: statistics.median(values) for stage, values in stages.items()}
        for name, stages in times.items()
    }
    return medians, tokens, facts


def report(arguments, threads, medians, tokens, facts):
    print(
        f"\n{processor()}, {threads} threads, medians of {arguments.rounds} rounds of"
        f" {arguments.repeats}, ms; PyTorch {facts.get('torch', 'not run')}"
    )
    if facts.get("ceilings"):
        found = ", ".join(f"{key} {value:.1f}" for key, value in facts["ceilings"].items())
        print(f"best rates of the processor: {found}")
    print(f"{'':<16}" + "".join(f"{stage:>12}" for stage in STAGES) + f"{'tokens equal':>14}")
    reference = tokens.get(("ours", "f32"))
    for name, stages in medians.items():
        line = f"{' '.join(name):<16}" + "".join(f"{stages[stage]:>12.1f}" for stage in STAGES)
        if reference:
            equal = sum(a == b for a, b in zip(tokens[name], reference))
            line += f"{equal:>9} of {len(reference)}"
        print(line)
    for mine, other in PAIRS:
        ours, theirs = medians.get(("ours", mine)), medians.get(("torch", other))
        if ours and theirs:
            ratios = "".join(f"{ours[stage] / theirs[stage]:>12.2f}" for stage in STAGES)
            print(f"{mine + '/' + other:<16}{ratios}")
    for name, error in facts.get("failed", {}).items():
        print(f"{' '.join(name)} did not run: {error}")
    theirs = tokens.get(("torch", "float32"))
    if reference and theirs and reference != theirs:
        sys.exit(f"inference.py: float32 tokens differ: ours {reference}, PyTorch {theirs}")


def main():
    arguments = options()
    prepare(arguments.checkpoint)
    threads, listed = contestants(arguments)
    report(arguments, threads, *measure(arguments, listed))


if __name__ == "__main__":
    main()
