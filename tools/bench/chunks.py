#!/usr/bin/env python3
"""Compares the time and memory of a chunk of pi0, pi0.5 or OpenVLA-OFT with plain PyTorch.

Random weights of real widths: pi0 and pi0.5 with 3 layers and 4 of vision (`--full`: all 18 and 27,
6.5 GB, needs 16 GB of memory in PyTorch's float32), OpenVLA-OFT with its vision towers and a Llama
of 2048 x 8. Two cameras with one picture of 224 x 224 pixels. All programs read the same folder;
the chunks must be equal within a tolerance by precision. PyTorch is searched in
OPENVLA_BENCH_PYTHON, then in python3; without it only our own times are printed. With `--full`
LeRobot's own code is a further program, if OPENVLA_BENCH_LEROBOT names a Python that has it (pip
install 'lerobot[pi]==0.6.1').

    tools/bench/chunks.py pi0|pi05|oft [--full] [--rounds 3] [--repeats 1] [--precision f32,bf16]

`--prepare` only builds and makes the folder, so that a later run only measures.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from inference import ROOT, TARGET, python_with_torch

IMAGE = ROOT / "tests/data/openvla_tiny/images/04_224x224_RGB.png"
STEPS = 10
# Largest difference of a normalised value, which are about 1, from PyTorch in float32. Below it in
# float32 is the rounding of two orders of summation; bf16 rounds every product's factors.
TOLERANCES = {"f32": 2e-3, "float32": 2e-3, "bf16": 0.5, "bfloat16": 0.5}
DTYPES = {"f32": "float32", "bf16": "bfloat16"}
OFT_POLICY = """
name: bench
unnorm_keys: [libero_spatial_no_noops]
cameras: [{name: image, topic: image}, {name: wrist_image, topic: wrist_image}]
state: [{from: joint_position, joints: [a, b, c, d, e, f, g, h]}]
action:
  frame: base
  rotation: rotation_vector
  composition: left
  translation_scale_m: 0.05
  rotation_scale_rad: 0.5
gripper: {polarity: one_is_open, threshold: 0.5}
policy_hz: 20.0
horizon: 8
execute: 8
image: {steps: [{step: bicubic, size: 224}]}
oft: {bounds: q01_q99, answers: regression}
"""


def run(command):
    """The JSON object that a program prints, or None and its last line of error."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["no message"])[-1]
    return json.loads(done.stdout), None


def build(binaries):
    """The folder of the programs; built unless it is given."""
    if binaries:
        return binaries
    command = ["cargo", "build", "--release", "--quiet", "--bin", "openvla"]
    subprocess.run(command, check=True, cwd=ROOT)
    command = ["cargo", "build", "--release", "--quiet", "-p", "vla-inference", "--examples"]
    subprocess.run(command, check=True, cwd=ROOT)
    return TARGET / "release"


def references(model, full, python):
    """The programs that ours are compared with: pairs of Python and script."""
    found = []
    scripts = ROOT / "tools/bench"
    if python:
        found.append((python, scripts / f"{'oft' if model == 'oft' else 'pi0'}_reference.py"))
    lerobot = os.environ.get("OPENVLA_BENCH_LEROBOT")
    # The sizes of its variants are fixed.
    if lerobot and full:
        found.append((lerobot, scripts / "pi0_lerobot.py"))
    return found


def checkpoint(model, full, python, examples):
    """The folder, made if it is not there."""
    name = {"oft": "oft_cut"}.get(model, f"{model}_{'full' if full else 'cut'}")
    folder = TARGET / "bench" / name / "ckpt"
    if (folder / "config.json").exists():
        return folder
    print(f"generating {folder}", flush=True)
    if model != "oft":
        options = ["--pi05"] * (model == "pi05") + ["--cut"] * (not full)
        command = [examples / "make_pi0_checkpoint", "--seed", "1", *options, "--out", folder]
        subprocess.run(command, check=True)
        return folder
    base = TARGET / "bench/cut"
    if not (base / "config.json").exists():
        command = [examples / "make_checkpoint", "--preset", "cut", "--seed", "1", "--out", base]
        subprocess.run(command, check=True)
    if not python:
        sys.exit("chunks.py: the heads of OpenVLA-OFT are saved by PyTorch, which is not found")
    writer = ROOT / "tools/bench/oft_reference.py"
    subprocess.run([python, writer, "--checkpoint", folder, "--from", base], check=True)
    return folder


def distance(one, other):
    return max(abs(a - b) for rows in zip(one, other) for a, b in zip(*rows))


def show(name, result, rounds, pi, reference):
    number = lambda one: one["p50"] if isinstance(one, dict) else one
    milliseconds = {
        stage: statistics.median(number(one["milliseconds"][stage]) for one in rounds)
        for stage in rounds[0]["milliseconds"]
    }
    line = f"{name:<38} {milliseconds['total'] / 1e3:>8.2f} s"
    line += f"  {milliseconds['vision'] / 2:>8.0f} ms a camera"
    if pi:
        line += f"  {milliseconds['prefix']:>8.0f} ms prefix"
        line += f"  {milliseconds['denoise'] / STEPS:>7.1f} ms an Euler step"
    else:
        line += f"  {milliseconds['prefill']:>8.0f} ms language model"
        line += f"  {milliseconds['head']:>7.1f} ms head"
    line += f"  {(result['peak_memory_bytes'] or 0) / 2**30:>6.2f} GiB"
    if reference is not None:
        line += f"  differs {distance(result['normalized'], reference):.1e}"
    print(line, flush=True)
    return milliseconds["total"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["pi0", "pi05", "oft"])
    parser.add_argument("--full", action="store_true", help="all layers; pi0 and pi0.5 only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=1, help="chunks before the measured ones")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--precision", default="f32,bf16")
    parser.add_argument("--binaries", type=Path, help="built programs; else they are built")
    parser.add_argument("--prepare", action="store_true", help="only build and generate")
    arguments = parser.parse_args()
    if arguments.full and arguments.model == "oft":
        parser.error("--full is for pi0 and pi05")
    binaries = build(arguments.binaries)
    python, pi = python_with_torch(), arguments.model != "oft"
    folder = checkpoint(arguments.model, arguments.full, python, binaries / "examples")
    if arguments.prepare:
        return None
    threads = arguments.threads or len(os.sched_getaffinity(0))
    common = ["--checkpoint", folder, "--image", IMAGE, "--repeats", arguments.repeats]
    common += ["--threads", threads, "--warm-up", arguments.warm_up]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as policy:
        policy.write(OFT_POLICY)
        policy.flush()
        ours = [binaries / "openvla", "bench", *common, "--json"]
        ours += ["--steps", STEPS, "--seed", 7] if pi else ["--policy-file", policy.name]
        others = references(arguments.model, arguments.full, python)
        return compare(arguments, (ours, common), others, pi)


def compare(arguments, commands, others, pi):
    """Rounds alternate between the programs, so that a temporary load affects all."""
    ours, common = commands
    precisions = arguments.precision.split(",")
    rounds, left_out = {}, {}
    for _ in range(arguments.rounds):
        prompt = None
        for precision in precisions:
            result, error = run([*ours, "--precision", precision])
            if error:
                left_out[f"openvla_tt {precision}"] = error
                continue
            rounds.setdefault(f"openvla_tt {precision}", []).append(result)
            prompt = prompt or result
        if prompt is None:
            sys.exit(f"chunks.py: {left_out}")
        ids = ",".join(map(str, prompt["input_ids"]))
        for precision, (interpreter, script) in itertools.product(precisions, others):
            theirs = [interpreter, script, *common, "--ids", ids, "--dtype", DTYPES[precision]]
            theirs += ["--seed", prompt["seed"], "--steps", STEPS] if pi else []
            result, error = run(theirs)
            if error:
                left_out[f"{script.stem} {precision}"] = error
                continue
            torch = f"torch {result['torch'].split('+')[0]}"
            lerobot = f"lerobot {result['lerobot']}, " if "lerobot" in result else ""
            rounds.setdefault(f"{lerobot}{torch} {result['dtype']}", []).append(result)
    size = "full size" if arguments.full else "cut"
    print(f"{arguments.model}, {size}, 2 cameras, medians of {arguments.rounds} rounds")
    plain = next((name for name in rounds if name.endswith(" float32")), None)
    reference = rounds[plain][-1]["normalized"] if plain else None
    totals, wrong = {}, []
    for name, results in rounds.items():
        totals[name] = show(name, results[-1], results, pi, reference)
        bound = TOLERANCES[name.rsplit(" ", 1)[1]]
        if reference and bound < distance(results[-1]["normalized"], reference):
            wrong.append(name)
    for name, error in left_out.items():
        print(f"{name}: {error}")
    fastest = lambda start: min(
        (totals[name] for name in totals if name.startswith(start)), default=None
    )
    for start, label in (("torch", "PyTorch"), ("lerobot", "LeRobot")):
        if fastest(start):
            ratio = fastest("openvla_tt") / fastest(start)
            print(f"our fastest / {label}'s fastest: {ratio:.2f}")
    if wrong:
        sys.exit(f"chunks.py: other actions than PyTorch in float32: {', '.join(wrong)}")
    return None


if __name__ == "__main__":
    main()
