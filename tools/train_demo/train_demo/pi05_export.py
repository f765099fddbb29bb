"""Exports a trained small pi0.5 as LeRobot's `save_pretrained` writes it, and reads it again.

Weights are bfloat16. `tiny_overrides` in config.json holds the sizes, because LeRobot's own keys
only name published variants; LeRobot's reader refuses that key, the node's takes it.
"""

import dataclasses
import json
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .model import PATCH
from .pi05_model import PERIODS, GemmaShape, Pi05, Pi05Shape, SiglipShape
from .pi05_vocabulary import BELOW, FIRST_BIN, SIZE, tokenizer_json

IMAGE = "observation.images."
RENDERED = 224  # side of the cameras' images in the data [pixels]
TEXT = 24  # most tokens of a prompt
STEPS = 10  # of Euler's method


def unused_tensors(model):
    """Tensors of LeRobot's checkpoints that inference does not use: zeros."""
    shape, vlm = model.shape, "paligemma_with_expert.paligemma."
    yield f"{vlm}lm_head.weight", (SIZE, shape.vlm.width)
    yield "paligemma_with_expert.gemma_expert.lm_head.weight", (SIZE, shape.expert.width)


def tensors(model):
    """The state dict of the checkpoint, bfloat16.

    Of the language model's last layer only keys and values are used; its other tensors keep their
    random initial values.
    """
    state = {
        "model." + name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    # Training feeds the lowest bin for values below the range, of which a prompt says -1.
    table = state["model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"]
    table[BELOW] = table[FIRST_BIN]
    for name, size in unused_tensors(model):
        state["model." + name] = torch.zeros(size, dtype=torch.bfloat16)
    return state


def features(shape):
    visual = {"type": "VISUAL", "shape": [3, RENDERED, RENDERED]}
    inputs = {IMAGE + name: visual for name in shape.cameras}
    inputs["observation.state"] = {"type": "STATE", "shape": [shape.state]}
    return inputs, {"action": {"type": "ACTION", "shape": [shape.action]}}


NORM_MAP = {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"}


def config(shape, execute):
    inputs, outputs = features(shape)
    sizes = dataclasses.asdict
    return {
        "type": "pi05",
        "n_obs_steps": 1,
        "input_features": inputs,
        "output_features": outputs,
        "device": "cpu",
        "use_amp": False,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "dtype": "bfloat16",
        "chunk_size": shape.chunk,
        "n_action_steps": execute,
        "max_state_dim": shape.state,
        "max_action_dim": shape.action,
        "num_inference_steps": STEPS,
        "min_period": PERIODS[0],
        "max_period": PERIODS[1],
        "use_relative_actions": False,
        "rtc_training_max_delay": shape.max_delay,
        "image_resolution": [shape.image_size] * 2,
        "empty_cameras": 0,
        "tokenizer_max_length": TEXT,
        "normalization_mapping": NORM_MAP,
        "tiny_overrides": {
            "gemma_2b": sizes(shape.vlm),
            "gemma_300m": sizes(shape.expert),
            "vision": sizes(shape.vision) | {"patch_size": PATCH, "image_size": shape.image_size},
            "vocab_size": SIZE,
        },
    }


def pipelines(shape):
    """The two processor files: {name: content}."""
    inputs, outputs = features(shape)
    step = lambda name, **config: {"registry_name": name, "config": config}
    device = step("device_processor", device="cpu", float_dtype=None)
    norm = dict(eps=1e-8, norm_map=NORM_MAP)
    file = "policy_{}_step_{}_{}_processor.safetensors"
    before = [
        step("rename_observations_processor", rename_map={}),
        step("to_batch_processor"),
        step("normalizer_processor", features=inputs | outputs, **norm)
        | {"state_file": file.format("preprocessor", 2, "normalizer")},
        step("pi05_prepare_state_tokenizer_processor_step"),
        step(
            "tokenizer_processor",
            max_length=TEXT,
            task_key="task",
            padding_side="right",
            padding="max_length",
            truncation=True,
            tokenizer_name="google/paligemma-3b-pt-224",
        ),
        device,
    ]
    after = [
        step("unnormalizer_processor", features=outputs, **norm)
        | {"state_file": file.format("postprocessor", 0, "unnormalizer")},
        device,
    ]
    return {
        "policy_preprocessor.json": {"name": "policy_preprocessor", "steps": before},
        "policy_postprocessor.json": {"name": "policy_postprocessor", "steps": after},
    }


def export(model, statistics, folder, execute, provenance=None):
    """Writes the folder atomically and replaces an older one.

    `provenance` is written to training.json, which no program reads.
    """
    shape = model.shape
    files = {"config.json": config(shape, execute), **pipelines(shape)}
    files["tokenizer/tokenizer.json"] = tokenizer_json()
    if provenance is not None:
        files["training.json"] = provenance
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "tokenizer").mkdir(parents=True)
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (new / name).write_text(text, encoding="utf-8")
    numbers = {
        f"{feature}.{name}": torch.tensor(values, dtype=torch.float32)
        for feature, family in statistics.items()
        for name, values in family.items()
    }
    for pipeline in pipelines(shape).values():
        for step in pipeline["steps"]:
            if "state_file" in step:
                save_file(numbers, new / step["state_file"])
    save_file(tensors(model), new / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def load(folder):
    """The model in float32, and the statistics: {feature: {name: array}}."""
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes, vision = facts["tiny_overrides"], dict(facts["tiny_overrides"]["vision"])
    for name in ("patch_size", "image_size"):
        del vision[name]
    shape = Pi05Shape(
        image_size=facts["image_resolution"][0],
        cameras=tuple(n.removeprefix(IMAGE) for n in facts["input_features"] if IMAGE in n),
        vision=SiglipShape(**vision),
        vlm=GemmaShape(**sizes["gemma_2b"]),
        expert=GemmaShape(**sizes["gemma_300m"]),
        chunk=facts["chunk_size"],
        action=facts["max_action_dim"],
        state=facts["max_state_dim"],
        vocabulary=sizes["vocab_size"],
        max_delay=facts["rtc_training_max_delay"],
    )
    model = Pi05(shape).requires_grad_(False)
    state = load_file(folder / "model.safetensors")
    wanted = model.state_dict()
    model.load_state_dict({name: state["model." + name].float() for name in wanted})
    (file,) = folder.glob("policy_preprocessor_step_*_normalizer_processor.safetensors")
    statistics = {}
    for name, tensor in load_file(file).items():
        feature, family = name.rsplit(".", 1)
        statistics.setdefault(feature, {})[family] = tensor.numpy().astype(np.float64)
    return model, statistics
