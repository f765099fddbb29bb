"""An exported checkpoint as a policy in PyTorch, for demonstrations and evaluation without ROS."""

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from .model import OpenVla, Shape, TowerShape
from .vocabulary import ACTION_END, SIZE, WORD_SLOTS, Vocabulary, action_values


def read_shape(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, (dino, siglip) = config["text_config"], config["tiny_timm_overrides"]
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "rope_theta",
    )
    return Shape(
        config["image_sizes"][0],
        TowerShape(**dino),
        TowerShape(**siglip),
        *(text[name] for name in names),
    )


class Policy:
    def __init__(self, folder):
        self.shape = read_shape(folder)
        self.model = OpenVla(self.shape, SIZE).requires_grad_(False)
        state = load_file(folder / "model.safetensors")
        wanted = self.model.state_dict()
        self.model.load_state_dict({name: state[name].float() for name in wanted})
        self.vocabulary = Vocabulary((folder / "tokenizer.json").read_text(encoding="utf-8"))
        statistics = json.loads((folder / "dataset_statistics.json").read_text(encoding="utf-8"))
        (self.stats,) = (entry["action"] for entry in statistics.values())

    def tokens(self, images, instructions):
        """Greedy tokens [n, 7] for n images, uint8 [height, width, 3], and n instructions.

        All instructions must have the same number of tokens.
        """
        side = self.shape.image_size
        resized = [
            image
            if image.shape[0] == side
            else Image.fromarray(image).resize((side, side), Image.BICUBIC)
            for image in images
        ]
        rgb = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
        prompts = torch.tensor(
            [self.vocabulary.prompt_ids(instruction)[1:] for instruction in instructions]
        )
        return self.model.generate(rgb, prompts).numpy()

    def act(self, images, instructions):
        """Actions [m, rad per step; gripper], None where a token is not an action."""
        allowed = lambda ids: ((ids >= WORD_SLOTS) & (ids < ACTION_END)).all()
        return [
            action_values(ids, self.stats) if allowed(ids) else None
            for ids in self.tokens(images, instructions)
        ]
