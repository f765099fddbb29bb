#!/usr/bin/env python3
"""Compares chunks of an exported small pi0.5 in LeRobot's own code with those of the program.

    python tools/train_demo/check_with_lerobot.py CHECKPOINT IMAGE WRIST_IMAGE
        [--state 0.45,0,0.15,1] [--instruction 'touch the red block'] [--program openvla]

LeRobot's processors and model compute the chunk from the same pictures, state, instruction and
noise as `openvla predict`. LeRobot only knows the published sizes, and a tokenizer by its name on
the Hub: this program puts the checkpoint's sizes and tokenizer in their places and changes nothing
else. Exit status 1 when an action differs by more than a micrometre, or the gripper by 1e-4.
Needs lerobot[pi]==0.6.1.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05 import modeling_pi05
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.converters import (
    policy_action_to_transition,
    transition_to_policy_action,
)
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "bench"))
from pi0_reference import noise  # noqa: E402

SEED = 7


def use_sizes(sizes):
    """Puts the checkpoint's dimensions in place of those of the published variants."""
    configs = {
        name: modeling_pi05.GemmaConfig(**sizes[name]) for name in ("gemma_2b", "gemma_300m")
    }
    modeling_pi05.get_gemma_config = lambda variant: configs[variant]
    vision, rows = sizes["vision"], sizes["vocab_size"]
    build, expert = (
        modeling_pi05.PaliGemmaForConditionalGenerationWithPiGemma,
        modeling_pi05.PiGemmaForCausalLM,
    )

    def small(config):
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            setattr(config.vision_config, name, vision[name])
        config.vision_config.intermediate_size = vision["intermediate_size"]
        config.vision_config.patch_size = vision["patch_size"]
        config.vision_config.projection_dim = sizes["gemma_2b"]["width"]
        config.text_config.vocab_size = config.image_token_index = rows
        config._vocab_size = rows
        return build(config=config)

    def small_expert(config):
        config.vocab_size = rows
        return expert(config=config)

    modeling_pi05.PaliGemmaForConditionalGenerationWithPiGemma = small
    modeling_pi05.PiGemmaForCausalLM = small_expert


def lerobots_chunk(checkpoint, pictures, state, instruction):
    raw = json.loads((checkpoint / "config.json").read_text())
    use_sizes(raw.pop("tiny_overrides"))
    # Only in newer versions, for their trained mode of real-time chunking; not used here.
    raw.pop("rtc_training_max_delay", None)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkpoint"
        shutil.copytree(checkpoint, copy)
        (copy / "config.json").write_text(json.dumps(raw | {"dtype": "float32"}))
        (copy / "tokenizer" / "tokenizer_config.json").write_text(
            json.dumps(
                {
                    "tokenizer_class": "PreTrainedTokenizerFast",
                    "pad_token": "<pad>",
                    "bos_token": "<bos>",
                    "eos_token": "<eos>",
                    "unk_token": "<unk>",
                }
            )
        )
        config = PreTrainedConfig.from_pretrained(copy)
        config.device, config.compile_model = "cpu", False
        policy = modeling_pi05.PI05Policy.from_pretrained(copy, config=config, strict=False).eval()
        before = PolicyProcessorPipeline.from_pretrained(
            copy,
            config_filename="policy_preprocessor.json",
            overrides={"tokenizer_processor": {"tokenizer_name": str(copy / "tokenizer")}},
        )
        after = PolicyProcessorPipeline.from_pretrained(
            copy,
            config_filename="policy_postprocessor.json",
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        )
        batch = {"observation.state": torch.tensor(state), "task": instruction}
        for name, picture in zip(("image", "wrist_image"), pictures):
            pixels = torch.from_numpy(np.asarray(Image.open(picture).convert("RGB")).copy())
            batch[f"observation.images.{name}"] = pixels.permute(2, 0, 1).float() / 255
        count = config.chunk_size * config.max_action_dim
        x = torch.from_numpy(noise(SEED, count)).view(1, config.chunk_size, -1)
        with torch.no_grad():
            chunk = policy.predict_action_chunk(before(batch), noise=x)
            return after(chunk)[0].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pictures", type=Path, nargs=2)
    parser.add_argument("--state", default="0.45,0.0,0.15,1.0")
    parser.add_argument("--instruction", default="touch the red block")
    parser.add_argument("--program", nargs="+", default=[str(ROOT / "target/release/openvla")])
    chosen = parser.parse_args()
    state = [float(number) for number in chosen.state.split(",")]
    theirs = lerobots_chunk(chosen.checkpoint, chosen.pictures, state, chosen.instruction)
    images = [f"{n}={p}" for n, p in zip(("image", "wrist_image"), chosen.pictures)]
    answer = subprocess.run(
        [
            *chosen.program,
            *("predict", "--json", "--checkpoint", str(chosen.checkpoint), "--seed", str(SEED)),
            *("--policy-file", str(ROOT / "config/policies/tabletop_pi05.yaml")),
            *("--image", images[0], "--image", images[1], f"--state={chosen.state}"),
            *("--instruction", chosen.instruction),
        ],
        capture_output=True,
        text=True,
    )
    if answer.returncode:
        sys.exit(answer.stderr)
    difference = np.abs(np.array(json.loads(answer.stdout)["actions"]) - theirs).max(0)
    print(f"largest difference: {difference[:6].max():.1e} m or rad, gripper {difference[6]:.1e}")
    sys.exit(int(difference[:6].max() > 1e-6 or difference[6] > 1e-4))


if __name__ == "__main__":
    main()
