#!/usr/bin/env python3
"""Tests a small training run and its checkpoint in the Rust program.

    tools/train_demo/run test [COMMAND...]

COMMAND starts the program, by default target/release/openvla (`make build`); one built with ROS
needs its libraries: tools/ros/run target/debug/openvla.

Trains 60 steps of the OpenVLA with an interruption half-way, and again without: the weights are
bit-identical. Then compares greedy tokens on images of the simulator with those of PyTorch. Trains
60 steps of the pi0.5 and some of the OpenVLA-OFT, and compares their chunks.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = sys.argv[1:] or [str(HERE.parents[1] / "target" / "release" / "openvla")]
INSTRUCTIONS = ("touch the red block", "push the blue block", "pick up the green block", "dance")


POLICY_FILES = HERE.parents[1] / "config" / "policies"


def command(out, *more):
    return [str(HERE / "run"), "--out", str(out), "--small", *map(str, more)]


def package():
    """Makes `train_demo` importable."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))


def run_program(*arguments):
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True)


def saved(folder, **pictures):
    """Options of the program for pictures, which are saved in `folder`."""
    from PIL import Image

    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
        yield from ("--image", f"{name}={folder / name}.png")


class Small(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.out = Path(cls.folder.name)
        log = cls.out / "log"
        with open(log, "w") as file:
            process = subprocess.Popen(command(cls.out), stdout=file, stderr=subprocess.STDOUT)
            # The demonstrations of the first correction exist: training is past its first third.
            while process.poll() is None and not list(cls.out.glob("policy_*")):
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            cls.first_status = process.wait(timeout=300)
        cls.first_log = log.read_text()
        cls.second_status, cls.second_log = cls.train(cls.out)

    @staticmethod
    def train(out):
        done = subprocess.run(command(out), capture_output=True, text=True, timeout=900)
        return done.returncode, done.stdout + done.stderr

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_is_stopped_and_goes_on(self):
        self.assertEqual(self.first_status, 1, self.first_log)
        self.assertIn("the same command goes on from here", self.first_log)
        self.assertEqual(self.second_status, 0, self.second_log)
        self.assertIn("goes on at step", self.second_log)

    def test_a_rerun_without_a_stop_gives_the_same_weights(self):
        status, log = self.train(self.out / "again")
        self.assertEqual(status, 0, log)
        one, other = (
            (folder / "checkpoint/model.safetensors").read_bytes()
            for folder in (self.out, self.out / "again")
        )
        self.assertTrue(one == other, "another checkpoint from the same command")

    def test_provenance_and_refusal_of_another_command(self):
        provenance = json.loads((self.out / "checkpoint/training.json").read_text())
        self.assertIn("--seed 1 --steps 60 --vision-steps 20", provenance["command"])
        self.assertIn("--small", provenance["command"])
        self.assertEqual(provenance["versions"]["torch"].split("+")[0], "2.2.2")
        other = subprocess.run(
            [*command(self.out), "--seed", "2"], capture_output=True, text=True, timeout=120
        )
        self.assertEqual(other.returncode, 1, other.stdout)
        self.assertRegex(
            other.stderr.strip().splitlines()[-1],
            r"^train_demo: .*training\.pt was begun with '.*--seed 1 .*'.*--seed 2 ",
        )

    def test_died_worker_is_an_error(self):
        sys.path.insert(0, str(HERE))
        from train_demo.shards import WorkerPool

        # One of two dies; otherwise this would show only when the training waits for its shard.
        jobs = [(self.out / f"never_{k}.npz", 1, "states") for k in range(2)]
        pool = WorkerPool("train_demo.demonstrations", jobs, 100_000, 32, 2)
        try:
            self.assertTrue(pool.alive())
            os.kill(pool.processes[0].pid, signal.SIGABRT)
            pool.processes[0].join()
            with self.assertRaisesRegex(ChildProcessError, "died of SIGABRT"):
                pool.alive()
        finally:
            pool.end()

    def test_the_loss_falls(self):
        import torch

        state = torch.load(self.out / "training.pt", map_location="cpu")
        self.assertEqual(state["step"], 60)
        shown = [
            float(line.split("patch ")[1].split()[0])
            for line in (self.first_log + self.second_log).splitlines()
            if "patch " in line
        ]
        self.assertLess(shown[-1], 4.2, "from about 4.7 at the start")

    def test_the_program_answers_with_the_same_tokens(self):
        import numpy as np

        package()
        from train_demo.policy import Policy
        from train_demo.simulator import simulator

        checkpoint = self.out / "checkpoint"
        self.assertTrue(
            Path(PROGRAM[-1]).is_file(),
            f"no program at {PROGRAM[-1]}; run `make build` or name one",
        )
        inspected = run_program("inspect", "--json", "--checkpoint", checkpoint)
        self.assertEqual(inspected.returncode, 0, inspected.stderr)
        facts = json.loads(inspected.stdout)
        self.assertEqual(facts["missing"], [], facts)
        policy, compared = Policy(checkpoint), 0
        for seed in range(3):
            scene = simulator().TabletopScene(seed)
            picture = scene.render().copy()
            scene.close()
            image = list(saved(self.out, image=picture))
            for instruction in INSTRUCTIONS:
                answer = run_program(
                    *("predict", "--json", "--checkpoint", checkpoint, *image),
                    *("--instruction", instruction),
                )
                (ids,) = policy.tokens([picture], [instruction])
                (action,) = policy.act([picture], [instruction])
                if action is None:
                    self.assertIn("is no action token", answer.stderr)
                    continue
                self.assertEqual(answer.returncode, 0, answer.stderr)
                provenance = json.loads(answer.stdout)
                self.assertEqual(provenance["token_ids"], ids.tolist(), instruction)
                np.testing.assert_allclose(provenance["action"], action, atol=1e-12)
                compared += 1
        self.assertGreaterEqual(
            compared, 6, "most answers must be actions, or nothing was compared"
        )


class SmallChunks(unittest.TestCase):
    """Small trainings of chunk policies; the subclasses name them."""

    policy, options = None, ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.out = Path(cls.folder.name)
        done = subprocess.run(
            command(cls.out, "--policy", cls.policy, *cls.options),
            capture_output=True,
            text=True,
            timeout=900,
        )
        cls.status, cls.log = done.returncode, done.stdout + done.stderr

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def falls(self, figure, below):
        self.assertEqual(self.status, 0, self.log)
        shown = [
            float(line.split(f" {figure} ")[1].split()[0])
            for line in self.log.splitlines()
            if f" {figure} " in line
        ]
        self.assertLess(shown[-1], below, self.log)

    def same_chunks(self, act, tolerance, *more):
        """The program's chunks are those of `act(policy, pictures, numbers, instruction)`."""
        import numpy as np

        package()
        from train_demo import chunk_policy
        from train_demo.chunk_demonstrations import state
        from train_demo.simulator import simulator

        self.assertEqual(self.status, 0, self.log)
        policy = chunk_policy.load(self.out / "checkpoint")
        for seed, instruction in (
            (1, "touch the red block"),
            (2, "put the blue block in the white bowl"),
        ):
            scene = simulator().TabletopScene(seed, bowls=2, wrist_camera=True)
            pictures = [scene.render().copy(), scene.render("wrist_camera").copy()]
            numbers = state(scene)
            scene.close()
            answer = run_program(
                *("predict", "--json", "--checkpoint", self.out / "checkpoint", *more),
                *("--policy-file", POLICY_FILES / f"tabletop_{self.policy}.yaml"),
                *saved(self.out, image=pictures[0], wrist_image=pictures[1]),
                f"--state={','.join(str(float(x)) for x in numbers)}",
                *("--instruction", instruction),
            )
            self.assertEqual(answer.returncode, 0, answer.stderr)
            chunk = act(policy, pictures, numbers[None], instruction)
            np.testing.assert_allclose(json.loads(answer.stdout)["actions"], chunk, atol=tolerance)


class SmallPi05(SmallChunks):
    policy = "pi05"

    def test_the_loss_falls(self):
        self.falls("flow", 6.0)  # from about 8 at the start

    def test_the_program_answers_with_the_same_chunks(self):
        import torch

        def act(policy, pictures, numbers, instruction):
            shape = policy.model.shape
            noise = torch.from_numpy(program_noise(7, shape.chunk * shape.action))
            noise = noise.view(1, shape.chunk, shape.action)
            return policy.act([pictures], numbers, [instruction], noise)[0]

        # The training rounds the pictures to bytes after the resize; here neither does.
        self.same_chunks(act, 2e-6, "--seed", 7)

    def test_an_action_prefix_is_kept_and_changes_the_rest(self):
        import numpy as np
        import torch

        package()
        from train_demo import chunk_policy

        policy, random = chunk_policy.load(self.out / "checkpoint"), np.random.default_rng(0)
        pictures = [random.integers(0, 256, (2, 112, 112, 3)).astype(np.uint8)] * 3
        states, texts = np.tile([0.45, 0.0, 0.15, 1.0], (3, 1)), ["touch the red block"] * 3
        noise = torch.zeros(3, policy.model.shape.chunk, policy.model.shape.action)
        given = [np.zeros((0, 7)), np.full((3, 7), 0.002), np.full((5, 7), -0.001)]
        plain, three, five = policy.act(pictures, states, texts, noise, given)
        (alone,) = policy.act(pictures[:1], states[:1], texts[:1], noise[:1])
        np.testing.assert_allclose(plain, alone, atol=1e-6)
        np.testing.assert_allclose(three[:3], given[1], atol=1e-6)
        np.testing.assert_allclose(five[:5], given[2], atol=1e-6)
        self.assertGreater(np.abs(three[5:] - plain[5:]).max(), 1e-4)


    def test_a_base_gives_weights_and_statistics(self):
        base, out = self.out / "checkpoint", self.out / "continued"
        out.mkdir()
        (out / "demonstrations").symlink_to(self.out / "demonstrations")
        steps = ("--steps", 0, "--vision-steps", 0, "--action-steps")
        for count, same in ((0, True), (2, False)):
            (out / "training.pt").unlink(missing_ok=True)
            begin = command(out, "--policy", "pi05", "--base", base, "--corrections", *steps, count)
            done = subprocess.run(begin, capture_output=True, text=True, timeout=300)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            made = out / "checkpoint"
            equal = lambda name: (made / name).read_bytes() == (base / name).read_bytes()
            self.assertEqual(equal("model.safetensors"), same)
            for file in base.glob("policy_*.safetensors"):
                self.assertTrue(equal(file.name), file.name)
            facts = json.loads((made / "training.json").read_text())
            self.assertEqual(facts["base"]["checkpoint"], "checkpoint")
        refused = command(out, "--policy", "oft", "--base", base)
        done = subprocess.run(refused, capture_output=True, text=True, timeout=300)
        self.assertIn("--base: oft begins with its own weights", done.stderr)


class SmallOft(SmallChunks):
    policy = "oft"
    options = ("--steps", 40, "--vision-steps", 12, "--corrections", 14)

    def test_the_loss_falls(self):
        self.falls("l1", 2.6)  # from about 3.2 at the start

    def test_the_program_answers_with_the_same_chunks(self):
        package()
        from train_demo.chunk_demonstrations import half

        def act(policy, pictures, numbers, instruction):
            side = policy.model.shape.image_size
            return policy.act([[half(p, side) for p in pictures]], numbers, [instruction])[0]

        self.same_chunks(act, 2e-6)


def program_noise(seed, count):
    """The program's noise, from the independent implementation in tools/bench."""
    bench = str(HERE.parent / "bench")
    if bench not in sys.path:
        sys.path.insert(0, bench)
    import pi0_reference

    return pi0_reference.noise(seed, count)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
