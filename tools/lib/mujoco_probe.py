"""Renders one image of a red sphere with MuJoCo; fails where MuJoCo cannot render off screen."""

import mujoco

model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size="1" rgba="1 0 0 1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 16, 16)
renderer.update_scene(data)
assert renderer.render()[8, 8, 0] > 50
if hasattr(renderer, "close"):  # not in MuJoCo 2
    renderer.close()
