#!/usr/bin/env python3
"""How far rounding to bf16 moves OpenVLA and OpenVLA-OFT: our program on a device next to PyTorch.

    compare.py KIT... [--device sim:n300] [--precision bf16] [--out FILE.json]

For each golden kit the official model (official.py) runs in float32 and bfloat16. Its float32
values must be those that the official code recorded in the kit. Then `openvla selfcheck --json`
runs the same cases on the device, and both are compared with float32: tokens, the float32 margin
between the two largest logits where a token differs first, and the relative error and correlation
of every stage. A kit of OpenVLA is extended: every picture under two instructions of the kit,
for which float32 gives the reference.

Needs the environment of tools/precision/setup and a built `openvla`. The exit code is 1 when
float32 is not that of the kit, when the device gives fewer sequences of float32 than bfloat16, or
differs from it at a margin of 0.1 or more at which bfloat16 does not.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from official import Official

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Largest error of a stage in float32 next to the kit, relative to its root mean square.
SAME = 1e-4
# A token may differ from float32 where the float32 margin is below this, or where PyTorch's
# bfloat16 differs at a larger one.
MARGIN = 0.1


def picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def agreement(ours, reference):
    """Correlation, and the root mean square of the difference over that of the reference."""
    a, b = ours.double().flatten(), reference.double().flatten()
    error = float((a - b).norm() / b.norm())
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1]), error


class Table:
    """The worst agreement of every stage over the cases, for some programs."""

    def __init__(self):
        self.rows = {}

    def add(self, who, stage, pcc, error):
        worst = self.rows.setdefault(stage, {}).setdefault(who, [1.0, 0.0])
        worst[:] = [min(worst[0], pcc), max(worst[1], error)]


class Sequences:
    """Token sequences next to those of float32."""

    def __init__(self):
        self.cases, self.equal, self.margins = 0, {}, {}

    def add(self, reference, margins, answers):
        self.cases += 1
        for who, tokens in answers.items():
            at = next((i for i, (a, b) in enumerate(zip(tokens, reference)) if a != b), None)
            self.equal[who] = self.equal.get(who, 0) + (at is None)
            if at is not None:
                self.margins.setdefault(who, []).append(round(margins[at], 4))

    def summary(self):
        return {"cases": self.cases, "equal": self.equal, "margins": self.margins}


def top_margins(logits):
    first, second = logits.topk(2).values.unbind(-1)
    return (first - second).tolist()


def selfcheck(arguments, kit):
    command = [arguments.openvla, "selfcheck", "--golden", kit, "--json"]
    command += ["--device", arguments.device, "--precision", arguments.precision]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if not done.stdout.strip():
        sys.exit(f"compare.py: {' '.join(map(str, command))} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def kit_values(stages, logits, golden):
    """Our stages under the names of an OpenVLA kit."""
    values = {}
    for name in golden:
        if name in stages:
            values[name] = stages[name]
        elif name.endswith(".all"):
            values[name] = stages[name.removesuffix(".all")]
        elif name.endswith(".last"):
            values[name] = stages[name.removesuffix(".last")][-1]
        elif name == "logits.first":
            values[name] = logits[0]
    return values


def grid(kit, cases, reference, instructions):
    """Every picture under instructions of the kit, answered by float32, as a kit's cases: its own
    and those that follow."""
    entries, tensors = [], {}
    for at, image in enumerate(cases):
        for further in range(instructions):
            text = cases[(at + further) % len(cases)]
            tokens, logits = reference.decode(
                picture(kit / image["resized_rgb"]), text["input_ids_fed"]
            )
            # Actions stay the other case's: they name the statistics, and are not compared.
            entry = {
                **text,
                **{key: image[key] for key in ("image", "width", "height", "mode", "resized_rgb")},
                "id": len(entries),
                "generated_ids": tokens,
                "normalized_action": [],
                "top5_per_step": [{"margin": margin} for margin in top_margins(logits)],
            }
            if text is image:
                names = [f"patch_features.{name}" for name in reference.towers]
                names += ["projector.out", "llm.inputs_embeds"]
                names += [name for name in reference.stages if name.startswith("llm.layer")]
                tensors[entry["id"]] = {name: reference.stages[name].clone() for name in names}
                tensors[entry["id"]]["llm.final_norm.out.last"] = reference.stages[
                    "llm.final_norm.out"
                ][-1].clone()
                tensors[entry["id"]]["logits.first"] = logits[0].clone()
            entries.append(entry)
    return entries, tensors


def write_kit(folder, kit, entries, tensors):
    """A kit folder of other cases with the checkpoint and the pictures of `kit`."""
    for name in ("ckpt", "images", "resized", "tokenizer_cases.json"):
        (folder / name).symlink_to(kit / name)
    # The special cases refer to the kit's own cases, which float32 answers in its own run.
    whole = json.loads((kit / "cases.json").read_text())
    whole |= {"about": "pictures and instructions of a kit", "cases": entries, "eos_cases": []}
    (folder / "cases.json").write_text(json.dumps(whole))
    (folder / "tensors").mkdir()
    for number, values in tensors.items():
        save_file(values, folder / f"tensors/case{number:02}.safetensors")


def openvla(arguments, kit):
    whole = json.loads((kit / "cases.json").read_text())
    cases, table, own = whole["cases"], Table(), Sequences()
    models = {name: Official(kit / "ckpt", getattr(torch, name)) for name in NAMES}
    problems, recorded = [], 0
    for case in cases:
        path = kit / f"tensors/case{case['id']:02}.safetensors"
        golden = load_file(path) if path.exists() else {}
        for name, model in models.items():
            tokens, logits = model.decode(
                picture(kit / case["resized_rgb"]), case["input_ids_fed"]
            )
            for stage, value in kit_values(model.stages, logits, golden).items():
                table.add(name, stage, *agreement(value, golden[stage]))
            if name == "float32" and tokens != case["generated_ids"]:
                problems.append(f"case {case['id']}: float32 is not the kit's")
            if name == "bfloat16":
                recorded += tokens == case["generated_ids_bf16"]
                margins = [step["margin"] for step in case["top5_per_step"]]
                answers = {"bfloat16": tokens, "recorded": case["generated_ids_bf16"]}
                own.add(case["generated_ids"], margins, answers)
    for stage, row in table.rows.items():
        if row["float32"][1] > SAME:
            problems.append(f"{stage}: float32 is off by {row['float32'][1]:.1e}")
    ours = selfcheck(arguments, kit)
    for case, answer in zip(cases, ours["cases"]):
        margins = [step["margin"] for step in case["top5_per_step"]]
        own.add(case["generated_ids"], margins, {"ours": answer["tokens"]})
    own.cases = len(cases)
    for row in ours["stages"]:
        for stage in (row["stage"], f"{row['stage']}.all"):
            if stage in table.rows:
                table.add("ours", stage, row["pcc"], row["relative_rms"])
    every, stages = extended(arguments, kit, cases, models)
    return {
        "kit": kit.name,
        "bfloat16 here as recorded": f"{recorded} of {len(cases)}",
        "own": own.summary(),
        "extended": every.summary(),
        "stages": table.rows,
        "extended stages": stages.rows,
        "problems": problems + verdict(own) + verdict(every),
    }


def extended(arguments, kit, cases, models):
    entries, tensors = grid(kit, cases, models["float32"], arguments.instructions)
    every, table = Sequences(), Table()
    theirs = []
    for entry in entries:
        tokens, logits = models["bfloat16"].decode(
            picture(kit / entry["resized_rgb"]), entry["input_ids_fed"]
        )
        theirs.append(tokens)
        golden = tensors.get(entry["id"], {})
        for stage, value in kit_values(models["bfloat16"].stages, logits, golden).items():
            table.add("bfloat16", stage, *agreement(value, golden[stage]))
    with tempfile.TemporaryDirectory() as folder:
        write_kit(Path(folder), kit, entries, tensors)
        ours = selfcheck(arguments, folder)
    for entry, tokens, answer in zip(entries, theirs, ours["cases"]):
        margins = [step["margin"] for step in entry["top5_per_step"]]
        answers = {"bfloat16": tokens, "ours": answer["tokens"]}
        every.add(entry["generated_ids"], margins, answers)
    for row in ours["stages"]:
        table.add("ours", row["stage"], row["pcc"], row["relative_rms"])
    return every, table


def verdict(sequences):
    """What a comparison of sequences misses, in words."""
    equal, problems = sequences.equal, []
    if equal["ours"] < equal["bfloat16"]:
        problems.append(f"{equal['ours']} sequences equal, bfloat16 has {equal['bfloat16']}")
    limit = max([MARGIN, *sequences.margins.get("bfloat16", [])])
    far = [margin for margin in sequences.margins.get("ours", []) if margin >= limit]
    if far:
        problems.append(f"tokens differ at margins of {far}")
    return problems


def oft_runs(case):
    """(variant, answer, pictures, with state, discrete) of a case, as the kit names them."""
    every = len(case["images"])
    for name, answer in case.get("results", {}).items():
        yield name, answer, every, True, False
    if "actions" in case:
        yield "plain", case, every, True, False
    if "one_image" in case:
        yield "one_image", case["one_image"], 1, True, False
    if "without_proprio" in case:
        yield "without_proprio", case["without_proprio"], every, False, False
    for name in case:
        if name.startswith("discrete_"):
            count = ["one", "two", "three"].index(name.split("_")[1]) + 1
            yield name, case[name], count, False, True


def oft(arguments, kit):
    whole = json.loads((kit / "cases.json").read_text())
    shape = (whole["platform"]["chunk"], whole["platform"]["action_dim"])
    # Read before the run: a device that misses a bound is compared all the same.
    report = selfcheck(arguments, kit)["cases"]
    ours = {(case["case"], case["variant"]): case for case in report}
    table, tokens, problems = Table(), Sequences(), []
    actions = {}
    films = sorted({run[0] == "film" for case in whole["cases"] for run in oft_runs(case)})
    models = {
        (name, film): Official(kit / "ckpt", getattr(torch, name), film)
        for name in NAMES
        for film in films
    }
    for case in whole["cases"]:
        golden = load_file(kit / case["tensors"])
        for variant, answer, pictures, state, discrete in oft_runs(case):
            given = [picture(kit / image["prepared"]) for image in case["images"][:pictures]]
            state = case["proprio"]["normalized"] if state else None
            outputs = {}
            for name in NAMES:
                model = models[name, variant == "film"]
                # What is fed ends with an id for each answer and the stop token.
                ids = case["input_ids_fed"][: -shape[0] * shape[1] - 1]
                outputs[name] = model.chunk(given, ids, state, shape, not discrete)
                recorded = oft_stages(model, golden, variant) if variant in WHOLE else []
                for stage, value in recorded:
                    found = agreement(value, golden_of(golden, variant, stage))
                    table.add(name, f"{variant} {stage}", *found)
            mine = ours[case["id"], variant]
            for row in mine["stages"]:
                table.add("ours", f"{variant} {row['stage']}", row["pcc"], row["relative_rms"])
            place = f"case {case['id']} {variant}"
            if discrete:
                reference = outputs["float32"].argmax(-1).tolist()
                if reference != answer["token_ids"]:
                    problems.append(f"{place}: float32 is not the kit's")
                margins = top_margins(outputs["float32"])
                # Rows of one pass: each token stands for itself.
                answers = {"bfloat16": outputs["bfloat16"].argmax(-1).tolist()}
                answers["ours"] = mine["token_ids"]
                for at, (token, margin) in enumerate(zip(reference, margins)):
                    each = {who: [ids[at]] for who, ids in answers.items()}
                    tokens.add([token], [margin], each)
                continue
            reference = torch.tensor(answer["normalized_actions"])
            off = float((outputs["float32"] - reference).abs().max())
            if off > SAME:
                problems.append(f"{place}: float32 actions are off by {off:.1e}")
            errors = actions.setdefault(variant, [])
            recorded = answer.get("normalized_actions_bf16")
            errors.append(
                {
                    "case": case["id"],
                    "bfloat16": float((outputs["bfloat16"] - reference).abs().max()),
                    "recorded": recorded
                    and float((torch.tensor(recorded) - reference).abs().max()),
                    "ours": mine["normalized_error"],
                }
            )
    for stage, row in table.rows.items():
        if row.get("float32", [1, 0])[1] > SAME:
            problems.append(f"{stage}: float32 is off by {row['float32'][1]:.1e}")
    summary = {"kit": kit.name, "stages": table.rows, "actions": actions}
    if tokens.cases:
        summary["tokens"] = tokens.summary()
        problems += verdict(tokens)
    return {**summary, "problems": problems}


def golden_of(golden, variant, stage):
    return golden.get(f"{variant}.{stage}", golden.get(stage))


def oft_stages(model, golden, variant):
    """Our stages that the kit has for a variant."""
    for name, value in list(model.stages.items()):
        stage = name.replace("patch_features.", "")
        if golden_of(golden, variant, stage) is not None:
            yield stage, value


def show(report):
    print(f"\n## {report['kit']}")
    for name in ("own", "extended", "tokens"):
        if name in report:
            print(f"{name}: {json.dumps(report[name])}")
    for variant, errors in report.get("actions", {}).items():
        print(f"actions, {variant}: {json.dumps(errors)}")
    for part in ("stages", "extended stages"):
        print(f"{part:<40} {'PyTorch bfloat16':>22} {'ours':>22}    (lowest PCC, relative error)")
        for stage, row in report.get(part, {}).items():
            cells = [row.get(who) for who in ("bfloat16", "ours")]
            text = [f"{cell[0]:.6f} {cell[1]:.2e}" if cell else "" for cell in cells]
            worse = all(cells) and cells[1][1] > cells[0][1]
            print(f"{stage:<40} {text[0]:>22} {text[1]:>22}{'  worse' if worse else ''}")
    for problem in report["problems"]:
        print(f"PROBLEM {problem}")


WHOLE = ("plain", "film")  # the variants whose stages the kits hold
NAMES = ("float32", "bfloat16")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kits", type=Path, nargs="+", metavar="KIT")
    parser.add_argument("--device", default="sim:n300")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--openvla", type=Path, default=TARGET / "release/openvla")
    parser.add_argument("--instructions", type=int, default=2, help="under which a picture is put")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--out", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.device} {arguments.precision} next to torch {torch.__version__},"
        f" transformers {transformers.__version__}, timm {timm.__version__}, Python"
        f" {platform.python_version()}"
    )
    reports = []
    for kit in arguments.kits:
        of = oft if "platform" in json.loads((kit / "cases.json").read_text()) else openvla
        reports.append(of(arguments, kit.resolve()))
        show(reports[-1])
    if arguments.out:
        arguments.out.write_text(json.dumps(reports, indent=1))
    sys.exit(any(report["problems"] for report in reports))


if __name__ == "__main__":
    main()
