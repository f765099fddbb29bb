#!/usr/bin/env python3
"""Times a chunk of pi0 or pi0.5 in LeRobot's own code on the CPU, as a user of LeRobot runs it.

Takes the arguments of pi0_reference.py and prints the same JSON object: the same folder, pictures,
prompt, state and noise. Missing cameras and padding are masked, as LeRobot does. `prefix` is what
remains of the time of a chunk besides images and denoising.

    python tools/bench/pi0_lerobot.py --checkpoint DIR ...    (pip install 'lerobot[pi]==0.6.1')
"""

import contextlib
import json
import resource
import statistics
import sys
import time

import lerobot
import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from pi0_reference import arguments_of, noise, normalized_zero_state
from PIL import Image


def timed(owner, name, laps, key):
    """Adds the time of every call of a method to `laps[key]`."""
    inner = getattr(owner, name)

    def call(*positional, **named):
        begin = time.perf_counter()
        result = inner(*positional, **named)
        laps[key] += (time.perf_counter() - begin) * 1e3
        return result

    setattr(owner, name, call)


def main():
    arguments = arguments_of(__doc__)
    torch.set_grad_enabled(False)
    config = PreTrainedConfig.from_pretrained(arguments.checkpoint)
    config.dtype, config.device, config.compile_model = arguments.dtype, "cpu", False
    config.num_inference_steps = arguments.steps
    kind = {"pi0": PI0Policy, "pi05": PI05Policy}[config.type]
    # It prints what it loads. Generated folders have no `lm_head`, which no chunk needs.
    with contextlib.redirect_stdout(sys.stderr):
        policy = kind.from_pretrained(
            arguments.checkpoint, config=config, local_files_only=True, strict=False
        )
    policy.eval()
    laps, times = {}, {}
    timed(policy.model.paligemma_with_expert, "embed_image", laps, "vision")
    timed(policy.model, "denoise_step", laps, "denoise")

    raw = json.loads((arguments.checkpoint / "config.json").read_text())
    (width,) = raw["input_features"]["observation.state"]["shape"]
    ids = [int(text) for text in arguments.ids.split(",")]
    tokens = torch.zeros(1, config.tokenizer_max_length, dtype=torch.long)
    mask = torch.zeros(1, config.tokenizer_max_length, dtype=torch.bool)
    tokens[0, : len(ids)], mask[0, : len(ids)] = torch.tensor(ids), True
    cameras = [name for name in config.image_features if "empty_camera" not in name]
    x = torch.from_numpy(noise(arguments.seed, config.chunk_size * config.max_action_dim))
    x = x.view(1, config.chunk_size, config.max_action_dim)
    for run in range(arguments.warm_up + arguments.repeats):
        laps.update(vision=0.0, denoise=0.0)
        begin = time.perf_counter()
        picture = np.asarray(Image.open(arguments.image).convert("RGB"))
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        batch = {name: pixels for name in cameras[: arguments.cameras]}
        batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK] = tokens, mask
        batch[OBS_STATE] = normalized_zero_state(arguments.checkpoint, raw)[None, :width]
        chunk = policy.predict_action_chunk(batch, noise=x.clone())
        laps["total"] = (time.perf_counter() - begin) * 1e3
        laps["prefix"] = laps["total"] - laps["vision"] - laps["denoise"]
        if run >= arguments.warm_up:
            for name, value in laps.items():
                times.setdefault(name, []).append(value)
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "lerobot": lerobot.__version__,
                "dtype": arguments.dtype,
                "threads": torch.get_num_threads(),
                "normalized": chunk[0].float().tolist(),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "milliseconds": {name: statistics.median(values) for name, values in times.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
