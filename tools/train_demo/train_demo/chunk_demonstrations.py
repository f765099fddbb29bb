"""Demonstrations for chunk policies: two cameras, the state, and the next actions of the expert.

As `demonstrations.py`, with bowls on half of the tables and the task `place`. Every sample has the
chunks of all instructions (see `ideal.py`).
"""

import numpy as np

from .demonstrations import POSES_PER_LAYOUT, draw_state, project, repaint, scatter, settle
from .ideal import PLATE, POLICY_HZ, chunk, chunks, combinations
from .instructions import BOWLS, COLOURS
from .lockstep import ChunkSteps, observed
from .simulator import simulator

BOWLS_AT_MOST = 2
COMBINATIONS = 3 * 3 + 3 * BOWLS_AT_MOST
EXECUTE = 5  # steps of a chunk before the next inference, as in the policy file
LATEST = 3  # observations are 0 to 0.3 s old when the motion of their chunk begins


def half(picture, side):
    """The picture [height, width, 3] at half size, as the node's bilinear resize: means of 2x2."""
    if picture.shape != (2 * side, 2 * side, 3):
        raise ValueError(f"picture: {picture.shape} is not twice {side} pixels")
    wide = picture.reshape(side, 2, side, 2, 3).astype(np.uint16)
    return ((wide.sum((1, 3)) + 2) // 4).astype(np.uint8)


def state(scene):
    """Position of the tool [m] and opening of the gripper, shape [4]: the policy's state."""
    return np.array([*scene.ee_pose()[0], scene.gripper_opening()], np.float32)


def pictures(scene, side):
    return half(scene.render(), side), half(scene.render("wrist_camera"), side)


def observe(scene, side):
    """One observation with its labels."""
    image, wrist = pictures(scene, side)
    blocks = np.array([scene.block_position(k) for k in range(len(scene.colours))])
    bowl_colour = np.full(BOWLS_AT_MOST, -1, np.int64)
    bowls = np.zeros((BOWLS_AT_MOST, 3), np.float32)
    for k, (colour, place) in enumerate(scene.bowl_places().items()):
        bowl_colour[k], bowls[k] = BOWLS.index(colour), place
    things = np.concatenate([blocks, bowls])
    actions = np.zeros((COMBINATIONS, *chunk(scene).shape), np.float32)
    made = chunks(scene)
    actions[: len(made)] = made
    return {
        "image": image,
        "wrist": wrist,
        "colour": np.array([COLOURS.index(c) for c in scene.colours], np.int64),
        "block": blocks.astype(np.float32),
        "bowl_colour": bowl_colour,
        "bowl": bowls,
        "image_uv": project(scene, things).astype(np.float32),
        "wrist_uv": project(scene, things, "wrist_camera").astype(np.float32),
        "state": state(scene),
        "chunk": actions,
    }


def draw_bowl_state(scene, random):
    """A state of `place`: a block carried, above its bowl, or in it. False when out of reach."""
    scatter(scene, random)
    k, b = (int(random.integers(len(things))) for things in (scene.colours, scene.bowl_colours))
    block, bowl = scene._begin[k], list(scene.bowl_places().values())[b]
    kind = random.choice(["carried", "above", "inside"], p=[0.4, 0.4, 0.2])
    opening = random.uniform(0.43, 0.5)
    if kind == "carried":
        way = random.random()
        tip = (1 - way) * block + way * bowl + random.normal(0, [0.015, 0.015, 0])
        tip[2] = random.uniform(0.05, 0.135)
    elif kind == "above":
        spread = np.exp(random.uniform(np.log(0.003), np.log(0.04)))
        tip = np.array([*(bowl[:2] + random.normal(0, spread, 2)), random.uniform(0.05, 0.13)])
    else:
        opening = random.uniform(0.45, 1.0)
        tip = np.array([*(bowl[:2] + random.normal(0, 0.012, 2)), random.uniform(0.045, 0.16)])
    if kind == "inside":
        place = np.array([*(bowl[:2] + random.normal(0, 0.01, 2)), PLATE])
    else:
        place = tip + [*random.normal(0, 0.003, 2), 0.002 + random.normal(0, 0.002)]
    address = scene.model.joint(f"block{k}").qposadr[0]
    scene.data.qpos[address : address + 7] = [*place, 1, 0, 0, 0]
    return settle(scene, tip, opening, -0.004)


def random_states(scene, seed, count, side):
    random, made, layout = np.random.default_rng(seed), [], 0
    while len(made) < count:
        scene.reset(seed + layout)
        layout += 1
        for _ in range(POSES_PER_LAYOUT):
            repaint(scene, random)
            bowl = scene.bowl_colours and random.random() < 0.5
            if (draw_bowl_state if bowl else draw_state)(scene, random):
                made.append(observe(scene, side))
    return made[:count]


def followed(seed, count, side, scenes, act):
    """Observations of episodes in which `act(drivers, observations)` gives the chunks."""

    def drive(scene, seed):
        late, given = seed % (LATEST + 1), seed // (LATEST + 1) % 2 == 1
        return ChunkSteps(scene, POLICY_HZ, EXECUTE, late, given, simulator().Loop())

    see = lambda scene: observe(scene, side)
    return observed(scenes, seed, count, see, act, seconds=10.0, drive=drive)


def episodes(seed, count, side, scenes):
    """States that a noisy expert reaches."""
    random = np.random.default_rng(seed)

    def act(busy, seen):
        answers = []
        for driver, sample in zip(busy, seen):
            scene = driver.scene
            wanted = (scene.task, scene.target, scene.bowl if scene.task == "place" else None)
            actions = sample["chunk"][combinations(scene).index(wanted)].copy()
            actions[:, :3] += random.normal(0, 0.004 * random.random(), 3)
            answers.append(actions)
        return answers

    return followed(seed, count, side, scenes, act)


def corrections(seed, count, side, folder, scenes):
    """States that the policy in `folder` reaches, with the expert's chunks (DAgger)."""
    from . import chunk_policy

    policy = chunk_policy.load(folder)

    def act(busy, seen):
        pictures = [(sample["image"], sample["wrist"]) for sample in seen]
        states = np.stack([sample["state"] for sample in seen])
        return chunk_policy.act(policy, busy, pictures, states)

    return followed(seed, count, side, scenes, act)


def samples(kind, seed, count, side, policy_folder=None):
    """A shard's samples; half of the tables have bowls."""
    made = []
    for bowls in (0, BOWLS_AT_MOST):
        tasks = ("touch", "push", "pick", "place")[: 4 if bowls else 3]
        part = count // 2 if bowls else count - count // 2
        begin = seed + 5_000 * (bowls > 0)
        scenes = [
            simulator().TabletopScene(begin, bowls=bowls, tasks=tasks, wrist_camera=True)
            for _ in range(1 if kind == "states" else min(8, part))
        ]
        if kind == "states":
            made += random_states(scenes[0], begin, part, side)
        elif kind == "episodes":
            made += episodes(begin, part, side, scenes)
        else:
            made += corrections(begin, part, side, policy_folder, scenes)
        for scene in scenes:
            scene.close()
    return made
