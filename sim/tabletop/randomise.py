"""Domain randomisation: colours, light and camera of a scene."""

import colorsys

import mujoco
import numpy as np

# Of the camera: position [m], target [m], vertical field of view [degree].
CAMERA = np.array([0.98, 0.0, 0.72]), np.array([0.425, 0.0, 0.085]), 32.0


def look_at(position, target):
    """Quaternion (w, x, y, z) of an upright camera at `position` that looks at `target`."""
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.column_stack([right, np.cross(back, right), back])
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, matrix.ravel())
    return quaternion


def shade(rgb, random, strength):
    """A similar colour: hue within 8 degrees, saturation and value within 5 to 20 %."""
    h, s, v = colorsys.rgb_to_hsv(*rgb)
    h = (h + strength * random.uniform(-8, 8) / 360) % 1.0
    s = np.clip(s * (1 + strength * random.uniform(-0.15, 0.05)), 0, 1)
    v = np.clip(v * (1 + strength * random.uniform(-0.2, 0.1)), 0, 1)
    return colorsys.hsv_to_rgb(h, s, v)


def grey(random, low, high, tint, strength):
    """A grey between `low` and `high` with a slight tint, unlike any block."""
    base = (low + high) / 2 + strength * random.uniform(-0.5, 0.5) * (high - low)
    return np.clip(base + strength * random.uniform(-tint, tint, 3), 0, 1)


def paint(model, random, colours, strength):
    """Writes colours, light and camera into `model`.

    `colours` maps names of geoms and materials to RGB in 0..1. `strength` 0 gives the standard
    look, 1 the full range.
    """
    # The number of draws is always the same, so that a seed has the same look at every strength.
    for name, rgb in colours.items():
        value = shade(rgb, random, strength)
        if name.startswith("block"):
            model.geom(name).rgba[:3] = value
        else:
            model.material(name).rgba[:3] = value
    model.material("table").rgba[:3] = grey(random, 0.55, 0.85, 0.06, strength)
    model.material("floor").rgba[:3] = grey(random, 0.2, 0.5, 0.05, strength)
    model.material("arm").rgba[:3] = grey(random, 0.22, 0.4, 0.03, strength)
    model.material("hand").rgba[:3] = grey(random, 0.8, 0.95, 0.03, strength)
    model.material("finger").rgba[:3] = shade((0.95, 0.2, 0.85), random, strength)
    model.light("sun").diffuse[:] = 0.55 + strength * random.uniform(-0.15, 0.15)
    tilt = strength * random.uniform(-0.15, 0.15, 2)
    model.light("sun").dir[:] = np.array([*tilt, -1.0]) / np.linalg.norm([*tilt, 1.0])
    model.vis.headlight.ambient[:] = 0.35 + strength * random.uniform(-0.08, 0.08)
    position, target, view = CAMERA
    position = position + strength * random.uniform(-0.02, 0.02, 3)
    target = target + strength * random.uniform(-0.01, 0.01, 3)
    model.camera("camera").pos[:] = position
    model.camera("camera").quat[:] = look_at(position, target)
    model.camera("camera").fovy[:] = view + strength * random.uniform(-1, 1)
