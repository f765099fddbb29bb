"""The training loop: seeded, resumable, one process.

    python -m train_demo.train --out DIR [--policy pi05 | oft] [--steps N] [--small]

Writes DIR/demonstrations, DIR/training.pt (every few minutes, on Ctrl-C or SIGTERM, and at the end)
and DIR/checkpoint, the folder that the node loads, with its provenance in training.json.
"""

import argparse
import copy
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn

from . import recipe_oft, recipe_openvla, recipe_pi05, shards
from .dataset import Demonstrations
from .provenance import die_with_parent, provenance, same_run

RECIPES = {"openvla": recipe_openvla, "pi05": recipe_pi05, "oft": recipe_oft}
SMALL = dict(
    steps=60,
    vision_steps=20,
    corrections=[22],
    correction_shards=1,
    images=16,
    branches=3,
    shards=2,
    per_shard=64,
    first_shards=1,
    steps_per_shard=5,
)
CORRECTED = 0.2  # share of corrections (DAgger) in the steps for the actions alone
STOPPED = "train_demo: stopped; the same command goes on from here"


def options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--policy", choices=RECIPES, default="openvla")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of the optimiser")
    parser.add_argument(
        "--vision-steps",
        type=int,
        help="steps at the start that train the vision half alone",
    )
    parser.add_argument(
        "--action-steps", type=int, help="steps at the end for the actions alone, vision unchanged"
    )
    parser.add_argument("--images", type=int, help="per step")
    parser.add_argument("--branches", type=int, help="instructions per image")
    parser.add_argument("--shards", type=int, help="of demonstrations")
    parser.add_argument("--per-shard", type=int, help="pictures (default: 1024)")
    parser.add_argument("--steps-per-shard", type=int, help="a step draws from shards made by then")
    parser.add_argument("--first-shards", type=int, help="to begin with (default: 8)")
    parser.add_argument(
        "--corrections",
        type=int,
        nargs="*",
        help="steps whose policy is let loose and corrected by the expert (DAgger)",
    )
    parser.add_argument("--correction-shards", type=int, help="each time")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--workers", type=int, default=1, help="processes that make demonstrations")
    parser.add_argument(
        "--decay",
        type=float,
        help="share of the steps at the end over which the learning rate falls to zero",
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="checkpoint whose weights and statistics the training begins with (pi05)",
    )
    parser.add_argument(
        "--processes", type=int, default=2, help="that share each step's images, one thread each"
    )
    parser.add_argument("--save-seconds", type=float, default=180.0)
    parser.add_argument(
        "--small",
        action="store_true",
        help="a tiny model and few demonstrations: a few minutes, learns little",
    )
    chosen = parser.parse_args()
    defaults = dict(per_shard=1024, first_shards=8, decay=0.45, action_steps=0)
    defaults |= RECIPES[chosen.policy].DEFAULTS
    if chosen.small:
        defaults |= SMALL | dict(action_steps=min(6, defaults["action_steps"]))
    for name, value in defaults.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    if chosen.base and not hasattr(RECIPES[chosen.policy].Recipe, "begin_with"):
        parser.error(f"--base: {chosen.policy} begins with its own weights")
    if chosen.action_steps and not hasattr(RECIPES[chosen.policy].Recipe, "freeze"):
        parser.error(f"--action-steps: {chosen.policy} has no such stage")
    return chosen


class Trainer:
    """One of `processes` data-parallel processes.

    Each has the whole model and a share of the images; gradients are averaged. Rank 0 also makes
    demonstrations, prints and saves.
    """

    def __init__(self, chosen, rank=0):
        torch.manual_seed(chosen.seed)
        self.chosen, self.rank, self.step, self.seconds = chosen, rank, 0, 0.0
        self.steps = chosen.steps + chosen.action_steps
        self.recipe = RECIPES[chosen.policy].Recipe(chosen.small)
        if chosen.base:
            self.recipe.begin_with(chosen.base)
        self.shape = self.recipe.shape
        self.model, self.auxiliary = self.recipe.build()
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.parameters = [*self.model.parameters(), *self.auxiliary.parameters()]
        matrices = [p for p in self.parameters if p.dim() > 1]
        rest = [p for p in self.parameters if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=chosen.rate, betas=(0.9, 0.98), foreach=True)
        folder = chosen.out / "demonstrations"
        folder.mkdir(parents=True, exist_ok=True)
        self.jobs = list(shards.plan(folder, chosen.shards, chosen.seed))
        self.check_job = (folder / "check.npz", shards.FIRST_SEED - 1_000_000, "episodes")
        per = chosen.steps_per_shard
        schedule = [
            (max(0, (i - chosen.first_shards + 1) * per), job[0]) for i, job in enumerate(self.jobs)
        ]
        self.rounds = {}
        for number, step in enumerate(sorted(chosen.corrections)):
            first = shards.FIRST_SEED + chosen.seed * 100_000_000 + (number + 1) * 10_000_000
            policy = chosen.out / f"policy_{step}"
            self.rounds[step] = [
                (
                    folder / f"corrections_{step}_{i:02d}.npz",
                    first + i * 10_000,
                    "corrections",
                    policy,
                )
                for i in range(chosen.correction_shards)
            ]
            # A correction (DAgger) takes several times as long as another demonstration.
            schedule += [
                (step + 4 * per + i * 6 * per, job[0]) for i, job in enumerate(self.rounds[step])
            ]
        self.data = Demonstrations(sorted(schedule, key=lambda entry: entry[0]))
        self.file = chosen.out / "training.pt"
        self.stats = None
        self.provenance = provenance(chosen, self.recipe.base)

    def make(self, jobs):
        """Starts making the missing shards of `jobs`."""
        chosen = self.chosen
        self.data.pools.append(
            shards.WorkerPool(
                RECIPES[chosen.policy].SAMPLES,
                jobs,
                chosen.per_shard,
                self.shape.image_size,
                chosen.workers,
            )
        )

    def make_data(self):
        first = self.chosen.first_shards
        self.make([*self.jobs[:first], self.check_job, *self.jobs[first:]])
        for step, jobs in self.rounds.items():
            if step < self.step:
                self.make(jobs)

    def correct(self):
        """Starts demonstrations from states that the present policy reaches (DAgger)."""
        jobs = self.rounds[self.step]
        self.recipe.export(self.average, self.stats, jobs[0][3])
        self.make(jobs)

    def stage(self):
        """What the present step trains: "vision", "all" or "actions"."""
        if self.step < self.chosen.vision_steps:
            return "vision"
        return "all" if self.step < self.chosen.steps else "actions"

    def rate(self):
        """Learning rate: warm-up over 200 steps, constant, linear decay to zero.

        Then of the actions alone: likewise, over 50 steps and lower.
        """
        chosen = self.chosen
        if self.stage() == "actions":
            warm = min(1.0, (self.step - chosen.steps + 1) / 50)
            left = (self.steps - self.step) / (0.4 * chosen.action_steps)
            return 0.4 * chosen.rate * warm * min(1.0, left)
        warm = min(1.0, (self.step + 1) / min(200, chosen.steps / 10))
        left = (chosen.steps - self.step) / (chosen.decay * chosen.steps)
        return chosen.rate * warm * min(1.0, left)

    def save(self):
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "auxiliary": self.auxiliary.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "stats": self.stats,
            "shape": self.shape.as_dict(),
            "provenance": self.provenance,
        }
        temporary = self.file.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.file)

    def resume(self):
        if not self.file.exists():
            return
        state = torch.load(self.file, map_location="cpu")
        if state["shape"] != self.shape.as_dict():
            self.refuse(f"{self.file} is of another model shape; give another --out or delete it")
        if other := same_run(state["provenance"], self.provenance):
            self.refuse(
                f"{self.file} was begun with {other}; give the same options, another --out, or"
                " delete it"
            )
        if self.rank == 0 and state["provenance"]["commit"] != self.provenance["commit"]:
            print(
                f"begun at commit {state['provenance']['commit']}, goes on at"
                f" {self.provenance['commit']}: a run of one commit alone may give other weights"
            )
        self.provenance = state["provenance"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.auxiliary.load_state_dict(state["auxiliary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.stats = state["step"], state["seconds"], state["stats"]
        if self.rank == 0:
            print(f"goes on at step {self.step} of {self.steps}")

    def refuse(self, text):
        # By one process only.
        raise SystemExit(f"train_demo: {text}" if self.rank == 0 else 1)

    def reduce(self, stop):
        """Averages the gradients over the processes; returns whether one of them shall stop."""
        if self.chosen.processes == 1:
            return stop
        parameters = [p for p in self.parameters if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat(
            [parameter.grad.flatten() for parameter in parameters] + [torch.tensor([float(stop)])]
        )
        torch.distributed.all_reduce(flat)
        flat /= self.chosen.processes
        *gradients, stop = flat.split([parameter.numel() for parameter in parameters] + [1])
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad.copy_(gradient.view_as(parameter))
        return bool(stop > 0)

    def one_step(self, stop=False):
        """One optimiser step; returns metrics and whether to stop."""
        chosen = self.chosen
        images, stage = chosen.images // chosen.processes, self.stage()
        if stage == "actions":
            self.recipe.freeze(self.model, self.auxiliary)
        corrected = CORRECTED if stage == "actions" else None
        picked, random = self.data.pick([chosen.seed, self.step, self.rank], images, corrected)
        batch = self.recipe.collate(picked, random, chosen.branches, self.stats)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        loss, figures = self.recipe.losses(self.model, self.auxiliary, batch, stage)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        stop = self.reduce(stop)
        nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        # The decay of the average grows during the training.
        keep = 0.98 if stage == "actions" else min(0.998, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - keep
            )
        self.step += 1
        return figures, stop

    @torch.no_grad()
    def check(self):
        """Metrics of the averaged weights on held-out layouts, for all instructions."""
        path = self.check_job[0]
        if not path.exists():
            return {}
        with np.load(path) as file:
            shard = dict(file)
        count = len(next(iter(shard.values())))
        rows = range(0, count, max(1, count // 96))
        return self.recipe.check(self.average, shard, rows, self.stats)

    def follow(self):
        """Main function of every process but the first."""
        stop = False
        while self.step < self.steps and not stop:
            _, stop = self.one_step()

    def begin(self):
        self.resume()
        if self.rank == 0:
            self.make_data()
        if self.stats is None:
            shards = self.data.load(self.data.available(0))
            self.stats = self.recipe.base_statistics or self.recipe.statistics(shards)

    def run(self):
        chosen = self.chosen
        signalled = stop = False

        def ask_to_stop(*_):
            nonlocal signalled
            signalled = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ask_to_stop)
        begin, before = time.monotonic(), self.seconds
        saved, shown, first = begin, begin, self.step
        while self.step < self.steps and not stop:
            if self.step in self.rounds:
                self.correct()
            figures, stop = self.one_step(signalled)
            now = time.monotonic()
            self.seconds = before + now - begin
            if not np.isfinite(
                list(value for value in figures.values() if isinstance(value, float))
            ).all():
                raise SystemExit(
                    f"train_demo: step {self.step}: a loss is not finite ({figures}); lower --rate"
                )
            if now - shown > 15 or self.step == self.steps:
                speed = (self.step - first) / (now - begin)
                left = (self.steps - self.step) / speed
                text = " ".join(
                    f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {np.round(v, 1).tolist()}"
                    for k, v in figures.items()
                )
                print(
                    f"step {self.step}/{self.steps}  {speed:.2f}/s  {left / 60:.0f} min left"
                    f"  shards {len(self.data.shards)}  {text}",
                    flush=True,
                )
                shown = now
            if now - saved > chosen.save_seconds or self.step == self.steps or stop:
                self.save()
                if self.step > chosen.vision_steps:
                    print("check", json.dumps(self.check()), flush=True)
                saved = time.monotonic()
        self.save()
        for pool in self.data.pools:
            pool.end()
        if stop:
            raise SystemExit(STOPPED)
        return self


def join(chosen, rank, rendezvous):
    torch.set_num_threads(1)
    if chosen.processes > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=chosen.processes
        )
    trainer = Trainer(chosen, rank)
    trainer.begin()
    return trainer


def follower(chosen, rank, rendezvous):
    die_with_parent()
    join(chosen, rank, rendezvous).follow()


def main():
    chosen = options()
    chosen.out.mkdir(parents=True, exist_ok=True)
    rendezvous = chosen.out.resolve() / f"rendezvous_{os.getpid()}"
    context = torch.multiprocessing.get_context("spawn")
    for rank in range(1, chosen.processes):
        context.Process(target=follower, args=(chosen, rank, rendezvous), daemon=True).start()
    try:
        trainer = join(chosen, 0, rendezvous).run()
    except KeyboardInterrupt:  # while waiting for the first demonstrations
        raise SystemExit(STOPPED) from None
    finally:
        rendezvous.unlink(missing_ok=True)
    folder = chosen.out / "checkpoint"
    trainer.recipe.export(
        trainer.average,
        trainer.stats,
        folder,
        trainer.provenance | {"minutes": round(trainer.seconds / 60, 1)},
    )
    print(
        f"{folder}: {sum(p.numel() for p in trainer.model.parameters())} trained parameters after"
        f" {trainer.step} steps, {trainer.seconds / 60:.1f} min"
    )


if __name__ == "__main__":
    main()
