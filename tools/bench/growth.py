#!/usr/bin/env python3
"""How the time of an action on the CPU grows with layers, prompt tokens and threads.

Checkpoints of real width with 2, 4 and 8 layers of the language model and tiny towers (random
weights, `make_checkpoint`), one picture. Printed per precision: the medians and a straight line
fitted to them by least squares. A line that leaves much unexplained says that something besides the
work grows.

    tools/bench/growth.py [--rounds 3] [--repeats 3] [--precision f32,bf16,int8]
"""

import argparse
import os
import statistics
import subprocess

from inference import IMAGE, TARGET, build, processor, run

LAYERS = [2, 4, 8]
# Words added to the instruction; each is one token or a few.
WORDS = [0, 32, 96]
SENTENCE = "pick up the block"


def checkpoint(layers):
    folder = TARGET / f"bench/layers_{layers}"
    if not (folder / "config.json").exists():
        program = TARGET / "release/examples/make_checkpoint"
        command = [program, "--layers", str(layers), "--tiny-towers", "--seed", "1"]
        subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def command(arguments, precision, layers=8, words=0, threads=0):
    instruction = " ".join([SENTENCE] + ["now"] * words)
    result = [TARGET / "release/openvla", "bench", "--json", "--checkpoint", checkpoint(layers)]
    result += ["--image", IMAGE, "--unnorm-key", "bridge_orig", "--decode", "actions"]
    result += ["--repeats", arguments.repeats, "--threads", threads, "--precision", precision]
    return [*result, "--instruction", instruction]


def medians(arguments, commands):
    """Milliseconds of each stage per command; rounds alternate."""
    found = [{} for _ in commands]
    for _ in range(arguments.rounds):
        for values, each in zip(found, commands):
            result, error = run(each)
            if error is not None:
                raise SystemExit(f"growth.py: {error}")
            for stage, time in result["milliseconds"].items():
                values.setdefault(stage, []).append(time["p50"])
    return [
        {stage: statistics.median(times) for stage, times in values.items()} for values in found
    ]


def line(points):
    """Intercept, slope and the share of the variance that the line leaves."""
    xs, ys = zip(*points)
    x_mean, y_mean = statistics.mean(xs), statistics.mean(ys)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points)
    slope /= sum((x - x_mean) ** 2 for x in xs)
    start = y_mean - slope * x_mean
    left = sum((y - start - slope * x) ** 2 for x, y in points)
    return start, slope, left / sum((y - y_mean) ** 2 for y in ys)


def show(what, unit, stage, xs, times):
    points = [(x, time[stage]) for x, time in zip(xs, times)]
    start, slope, left = line(points)
    values = ", ".join(f"{x}: {y:.1f}" for x, y in points)
    print(
        f"  {stage:<8} over {what:<7} {values} ms -> {start:.1f} + {slope:.3f} per {unit}"
        f" ({100 * left:.1f} % of the variance left)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="f32,bf16,int8", help="with commas")
    arguments = parser.parse_args()
    build()
    cores = len(os.sched_getaffinity(0))
    print(f"{processor()}, {cores} cores, medians of {arguments.rounds} rounds")
    for precision in arguments.precision.split(","):
        print(precision)
        by_layer = medians(arguments, [command(arguments, precision, n) for n in LAYERS])
        for stage in ("prefill", "decode"):
            show("layers", "layer", stage, LAYERS, by_layer)
        by_word = medians(arguments, [command(arguments, precision, words=n) for n in WORDS])
        show("words", "word", "prefill", WORDS, by_word)
        threads = sorted({1, cores})
        by_thread = medians(arguments, [command(arguments, precision, threads=n) for n in threads])
        ratios = ", ".join(
            f"{stage} {by_thread[0][stage] / by_thread[-1][stage]:.2f}"
            for stage in ("prefill", "decode", "total")
        )
        print(f"  {threads[-1]} threads beside one, times as fast: {ratios}")


if __name__ == "__main__":
    main()
