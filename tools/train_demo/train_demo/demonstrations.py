"""Demonstrations: images of the tabletop with the expert's action for every task and block.

Most images are of random states, mostly above, behind and around a block or with a block between
the fingers, because a policy that leaves the expert's path needs labels there too. The others are
reached by a noisy expert or by the policy under training (DAgger), with the node's latency and
limits. Every image has its own colours, light and camera.
"""

import numpy as np
from PIL import Image

from .lockstep import SingleSteps, observed
from .simulator import simulator

TASKS = ("touch", "push", "pick")
POSES_PER_LAYOUT = 4
FIELDS = ("image", "colour", "block", "block_uv", "tip", "opening", "action")


def picture(scene, side):
    """The rendered image, uint8 [side, side, 3], resized as by OpenVLA's processor."""
    return np.asarray(Image.fromarray(scene.render()).resize((side, side), Image.BICUBIC))


def observe(scene, side):
    """One image with its labels."""
    colours = list(simulator().BLOCK_COLOURS)
    blocks = np.array([scene.block_position(k) for k in range(len(scene.colours))])
    kept = scene.task, scene.target, scene.bowl
    actions = np.zeros((len(TASKS), len(blocks), 7), np.float32)
    for t, task in enumerate(TASKS):
        for k, colour in enumerate(scene.colours):
            scene.set_task(task, colour)
            actions[t, k] = simulator().expert(scene)
    scene.set_task(*kept)
    return {
        "image": picture(scene, side),
        "colour": np.array([colours.index(c) for c in scene.colours], np.int64),
        "block": blocks.astype(np.float32),
        "block_uv": project(scene, blocks).astype(np.float32),
        "tip": scene.ee_pose()[0].astype(np.float32),
        "opening": np.float32(scene.gripper_opening()),
        "action": actions,
    }


def project(scene, points, camera="camera"):
    """Projection of points [n, 3] of the base frame: column and row in 0..1 of the image.

    Points behind the camera are far outside.
    """
    camera = scene.model.camera(camera).id
    away = (points - scene.data.cam_xpos[camera]) @ scene.data.cam_xmat[camera].reshape(3, 3)
    half = np.tan(np.radians(scene.model.cam_fovy[camera]) / 2)
    plane = away[:, :2] / np.maximum(-away[:, 2:], 1e-3) / half
    return np.column_stack([0.5 + plane[:, 0] / 2, 0.5 - plane[:, 1] / 2])


def repaint(scene, random):
    """Changes colours, light and camera; the layout stays."""
    tabletop = simulator()
    from tabletop.randomise import paint

    paints = {f"block{k}": tabletop.BLOCK_COLOURS[c] for k, c in enumerate(scene.colours)}
    paints |= {f"bowl{k}": tabletop.BOWL_COLOURS[c] for k, c in enumerate(scene.bowl_colours)}
    paint(scene.model, random, paints, 1.0)


def scatter(scene, random):
    """Puts the blocks where they were at first, a third of them displaced."""
    half = simulator().model.BLOCK_SIZE / 2
    for k in range(len(scene.colours)):
        address = scene.model.joint(f"block{k}").qposadr[0]
        x, y, _ = scene._begin[k]
        if random.random() < 0.33:
            x, y = x + random.uniform(-0.01, 0.05), y + random.normal(0, 0.01)
        yaw = random.normal(0, 0.12)
        scene.data.qpos[address : address + 7] = [
            x,
            y,
            half,
            np.cos(yaw / 2),
            0,
            0,
            np.sin(yaw / 2),
        ]
        scene.data.qpos[address] = x


def settle(scene, tip, opening, deepest):
    """Moves tool and fingers; False out of reach, or with contacts deeper than `deepest` [m]."""
    import mujoco
    from tabletop import model as cell
    from tabletop.scene import DOWN

    try:
        scene.kinematics.solve(scene.data, tip, DOWN, cell.READY_POSTURE)
    except ValueError:
        return False
    scene.data.qpos[scene._finger_qpos] = opening * cell.FINGER_TRAVEL
    mujoco.mj_forward(scene.model, scene.data)
    contacts = scene.data.contact[: scene.data.ncon]
    return min((contact.dist for contact in contacts), default=0.0) > deepest


def draw_state(scene, random):
    """Moves tool, fingers and sometimes blocks to a random state.

    False when the arm does not reach it or objects overlap.
    """
    half = simulator().model.BLOCK_SIZE / 2
    scatter(scene, random)
    chosen = int(random.integers(len(scene.colours)))
    address = scene.model.joint(f"block{chosen}").qposadr[0]
    x, y, z = scene.data.qpos[address : address + 3]
    opening = random.choice([0.0, 1.0, random.random()], p=[0.48, 0.44, 0.08])
    spread = np.exp(random.uniform(np.log(0.003), np.log(0.06)))
    kind = random.choice(
        ["anywhere", "over", "behind", "around", "grasp", "held"],
        p=[0.24, 0.28, 0.18, 0.14, 0.06, 0.10],
    )
    if kind == "anywhere":
        tip = random.uniform([0.31, -0.17, 0.02], [0.57, 0.17, 0.22])
    elif kind == "over":
        height = 2 * half + np.exp(random.uniform(np.log(0.003), np.log(0.12)))
        tip = np.array([x, y, height]) + [*random.normal(0, spread, 2), 0.0]
    elif kind == "behind":
        tip = np.array(
            [
                x - random.uniform(0.018, 0.1),
                y + random.normal(0, min(spread, 0.025)),
                0.012 + np.exp(random.uniform(np.log(0.004), np.log(0.1))),
            ]
        )
    elif kind == "around":
        opening = 1.0
        tip = np.array([x, y, 0.015 + np.exp(random.uniform(np.log(0.002), np.log(0.1)))])
        tip[:2] += random.normal(0, min(spread, 0.02), 2)
    elif kind == "grasp":
        opening = random.choice([1.0, random.uniform(0.5, 1.0)])
        tip = np.array(
            [*(np.array([x, y]) + random.normal(0, 0.005, 2)), random.uniform(0.015, 0.028)]
        )
    else:
        opening = random.uniform(0.47, 0.6)
        height = random.choice([0.018, random.uniform(0.016, 0.14)])
        tip = np.array(
            [*random.uniform([0.34, -0.15], [0.55, 0.15]) * 0.3 + np.array([x, y]) * 0.7, height]
        )
        scene.data.qpos[address : address + 3] = tip + [
            *random.normal(0, 0.003, 2),
            half - 0.018 + random.normal(0, 0.002),
        ]
        scene.data.qpos[address + 3 : address + 7] = [1, 0, 0, 0]
    near = kind in ("grasp", "held", "around")
    return settle(scene, tip, opening, -0.004 if near else -0.002)


def random_states(scene, seed, count, side):
    random, made, layout = np.random.default_rng(seed), [], 0
    while len(made) < count:
        scene.reset(seed + layout)
        layout += 1
        for _ in range(POSES_PER_LAYOUT):
            repaint(scene, random)
            if draw_state(scene, random):
                made.append(observe(scene, side))
    return made[:count]


def episodes(scene, seed, count, side):
    """States that a noisy expert reaches."""
    tabletop, random, made, layout = simulator(), np.random.default_rng(seed), [], 0
    while len(made) < count:
        scene.reset(seed + layout)
        layout += 1
        share, push = random.uniform(0, 1), np.zeros(3)

        def act(scene):
            nonlocal push
            made.append(observe(scene, side))
            action = made[-1]["action"][
                TASKS.index(scene.task), scene.colours.index(scene.target)
            ].copy()
            push = 0.7 * push + random.normal(0, 0.006 * share, 3)
            action[:3] += push
            return action

        tabletop.rollout(scene, act, seconds=8.0, latency=random.uniform(0.06, 0.18))
    return made[:count]


def corrections(seed, count, side, folder, width=16):
    """States that the policy in `folder` reaches, with the expert's actions (DAgger)."""
    from .policy import Policy

    policy = Policy(folder)
    scenes = [simulator().TabletopScene(seed) for _ in range(min(width, count))]

    def act(busy, seen):
        return policy.act(
            [sample["image"] for sample in seen], [driver.scene.instruction for driver in busy]
        )

    drive = lambda scene, seed: SingleSteps(scene, 0.06 + 0.12 * (seed % 7) / 6)
    see = lambda scene: observe(scene, side)
    made = observed(scenes, seed, count, see, act, seconds=8.0, drive=drive)
    for scene in scenes:
        scene.close()
    return made


def samples(kind, seed, count, side, policy_folder=None):
    """A shard's samples."""
    if kind == "corrections":
        return corrections(seed, count, side, policy_folder)
    scene = simulator().TabletopScene(seed)
    made = (random_states if kind == "states" else episodes)(scene, seed, count, side)
    scene.close()
    return made
