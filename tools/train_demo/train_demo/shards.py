"""Shards of demonstrations: their plan, their files, and the processes that make them."""

import faulthandler
import importlib
import multiprocessing
import os
import signal

import numpy as np

# First seed of the layouts for training; all smaller seeds are held out.
FIRST_SEED = 10_000_000


def write(path, samples):
    """Writes one shard atomically: the samples' fields, stacked."""
    arrays = {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
    temporary.rename(path)


def plan(folder, count, seed, episode_every=8):
    """Shard files in order, with first seed and kind; every eighth is of episodes.

    No two shards share a seed.
    """
    first = FIRST_SEED + seed * 100_000_000
    for i in range(count):
        yield (
            folder / f"shard_{i:04d}.npz",
            first + i * 10_000,
            "episodes" if i % episode_every == episode_every - 1 else "states",
        )


def _worker(queue, module, count, side):
    import torch

    from .provenance import die_with_parent

    samples = importlib.import_module(module).samples

    # Prints a traceback when native code crashes.
    faulthandler.enable()
    die_with_parent()
    torch.set_num_threads(1)
    while (job := queue.get()) is not None:
        path, seed, kind, *policy_folder = job
        write(path, samples(kind, seed, count, side, *policy_folder))


class WorkerPool:
    """Processes that make the missing shards of `jobs`, in order, with `count` samples each.

    `module` has the function `samples(kind, seed, count, side, policy_folder)`.
    """

    def __init__(self, module, jobs, count, side, workers):
        context = multiprocessing.get_context("spawn")
        # Kept as an attribute: a queue that is collected before a child has started is lost to it.
        self.queue = context.Queue()
        for job in [*(job for job in jobs if not job[0].exists()), *[None] * workers]:
            self.queue.put(job)
        self.processes = [
            context.Process(target=_worker, args=(self.queue, module, count, side), daemon=True)
            for _ in range(workers)
        ]
        for process in self.processes:
            process.start()

    def alive(self):
        """Whether shards are still being made; raises ChildProcessError when a process failed.

        No other process would make the shard that the failed one was making.
        """
        for process in self.processes:
            if code := process.exitcode:
                how = (
                    f"died of {signal.Signals(-code).name}"
                    if code < 0
                    else f"ended with status {code}"
                )
                raise ChildProcessError(
                    f"a process that makes demonstrations {how}; its output is above. Finished"
                    " shards are kept: the same command continues from there"
                )
        return any(process.is_alive() for process in self.processes)

    def end(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(10)
            process.kill()
        self.queue.cancel_join_thread()
