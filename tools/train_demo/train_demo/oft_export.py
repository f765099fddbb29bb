"""Exports a small OpenVLA-OFT as the official training does: two `.pt` files beside OpenVLA's."""

import json

import torch
from safetensors.torch import load_file

from . import export as openvla_export
from .export import KEY
from .oft_model import Oft, OftShape
from .policy import read_shape
from .vocabulary import SIZE

PARTS = ("action_head", "proprio_projector")


def file_of(folder, part):
    """The official name has the training step; here it is always 0."""
    return folder / f"{part}--0_checkpoint.pt"


def entry(statistics):
    """`dataset_statistics.json`'s entry for statistics by feature."""
    action, state = statistics["action"], statistics["observation.state"]
    keys = ("mean", "std", "min", "max", "q01", "q99")
    width = len(action["mean"])
    return {
        # The gripper is not normalised, as in LIBERO's.
        "action": {key: action[key] for key in keys} | {"mask": [True] * (width - 1) + [False]},
        "proprio": {key: state[key] for key in keys},
        "num_transitions": int(action["count"][0]),
        "num_trajectories": int(state["count"][0]),
    }


def export(model, statistics, folder, provenance=None):
    """Writes the folder, as `export.export`."""
    parts = {name: getattr(model, name).state_dict() for name in PARTS}

    def more(new):
        for name, state in parts.items():
            # With DistributedDataParallel's prefix; the published projector is float32.
            values = {f"module.{n}": t.detach().to(torch.bfloat16) for n, t in state.items()}
            torch.save(values, file_of(new, name))

    openvla_export.export(model, entry(statistics), folder, provenance, more)


def load(folder):
    """The model and the statistics {"action", "proprio"} of an exported folder."""
    statistics = json.loads((folder / "dataset_statistics.json").read_text(encoding="utf-8"))[KEY]
    parts = {name: torch.load(file_of(folder, name), weights_only=True) for name in PARTS}
    state = load_file(folder / "model.safetensors")
    for part, values in parts.items():
        for name, tensor in values.items():
            state[f"{part}.{name.removeprefix('module.')}"] = tensor
    action, numbers = (len(statistics[name]["mean"]) for name in ("action", "proprio"))
    shape = OftShape(**vars(read_shape(folder)), action=action, state=numbers)
    model = Oft(shape, SIZE)
    wanted = model.state_dict()
    model.load_state_dict({name: state[name].float() for name in wanted})
    return model.requires_grad_(False), statistics
