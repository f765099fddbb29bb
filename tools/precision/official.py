"""OpenVLA and OpenVLA-OFT of the libraries that the official code builds them from: timm's towers,
transformers' LlamaForCausalLM with `scaled_dot_product_attention`, and their projector, heads and
FiLM in the official order of operations and number format. compare.py holds its float32 values
against those that the official code recorded in the golden kits.

Stages have the kits' names: `dino.block0.out`, `llm.layer0.out`, `logits`, ...
"""

import json
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

TOWERS = {"dino": "featurizer", "siglip": "fused_featurizer"}
STOP = 2


class Stages(dict):
    """Tensors by name; the first of each name is kept, in float32."""

    def hook(self, name):
        return lambda _module, _inputs, output: self.keep(name, output)

    def keep(self, name, tensor):
        tensor = tensor[0] if isinstance(tensor, tuple) else tensor
        self.setdefault(name, tensor.detach().float().squeeze(0).contiguous())


class Adapted(torch.nn.Module):
    """A layer with a LoRA beside it that is not merged, as PEFT computes it."""

    def __init__(self, base, a, b, scale):
        super().__init__()
        self.base, self.scale = base, scale
        convolution = a.dim() == 4
        of = torch.nn.Conv2d if convolution else torch.nn.Linear
        sizes = (base.kernel_size, base.stride) if convolution else ()
        self.a = of(a.shape[1], a.shape[0], *sizes, bias=False)
        self.b = of(b.shape[1], b.shape[0], *((1,) if convolution else ()), bias=False)
        self.a.weight.data, self.b.weight.data = a, b

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        return self.base(x) + self.b(self.a(x)) * self.scale


class FilmBlock(torch.nn.Module):
    """A tower's block whose rows are scaled and shifted between attention and MLP."""

    def __init__(self, block, scale, shift):
        super().__init__()
        self.block, self.scale, self.shift = block, scale, shift
        self.language = None

    def forward(self, x):
        block = self.block
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
        gamma, beta = self.scale(self.language), self.shift(self.language)
        x = x * (1 + gamma.view(gamma.shape[0], 1, -1)) + beta.view(beta.shape[0], 1, -1)
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def numbers(folder, pattern):
    files = sorted(folder.glob(pattern))
    return torch.load(files[0], map_location="cpu", weights_only=True) if files else None


class Official:
    """A checkpoint folder in one number format."""

    def __init__(self, folder, dtype, film=False):
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
        self.norms = preprocessor["tvf_normalize_params"]
        self.dtype, self.stages = dtype, Stages()
        weights = {}
        for shard in sorted(folder.glob("*.safetensors")):
            weights.update(load_file(shard))
        if film:
            patched = numbers(folder, "vision_backbone--*.pt")
            weights = {k: v for k, v in weights.items() if not k.startswith("vision_backbone.")}
            weights.update({name.removeprefix("module."): v for name, v in patched.items()})
        self.towers = {name: self.tower(name, weights, film) for name in TOWERS}
        self.projector = {k: v.to(dtype) for k, v in weights.items() if k.startswith("projector.")}
        text = LlamaConfig(**self.config["text_config"])
        text._attn_implementation = "sdpa"
        self.llama = LlamaForCausalLM(text)
        part = "language_model."
        own = {k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)}
        self.llama.load_state_dict(own)
        self.llama = self.llama.to(dtype).eval()
        self.watch_llama()
        self.head, self.state = (
            {k.removeprefix("module.").removeprefix("model."): v.to(dtype) for k, v in file.items()}
            if (file := numbers(folder, pattern))
            else None
            for pattern in ("action_head--*.pt", "proprio_projector--*.pt")
        )

    def tower(self, name, weights, film):
        index = list(TOWERS).index(name)
        part = f"vision_backbone.{TOWERS[name]}."
        own = {k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)}
        overrides = (self.config.get("tiny_timm_overrides") or [{}, {}])[index]
        size = self.config["image_sizes"][index]
        tower = timm.create_model(
            self.config["timm_model_ids"][index],
            pretrained=False,
            num_classes=0,
            img_size=size,
            **overrides,
        )
        adapters = {}
        if film:
            own = {k.replace(".block.", ".", 1): v for k, v in own.items()}
            adapters = {k: own.pop(k) for k in list(own) if ".lora_" in k}
            own = {k.replace(".base_layer.", "."): v for k, v in own.items()}
            films = {k: own.pop(k) for k in list(own) if ".scale." in k or ".shift." in k}
        own = {k.replace(".scale_factor", ".gamma"): v for k, v in own.items()}
        tower.load_state_dict(own)
        for key in [k for k in adapters if ".lora_A." in k]:
            at = key.split(".lora_A.")[0]
            a, b = adapters[key], adapters[key.replace(".lora_A.", ".lora_B.")]
            place, attribute = tower.get_submodule(at.rpartition(".")[0]), at.rpartition(".")[2]
            scale = min(a.shape[0], 16) / a.shape[0]
            setattr(place, attribute, Adapted(getattr(place, attribute), a, b, scale))
        if film:
            for number, block in enumerate(tower.blocks):
                layers = []
                for kind in ("scale", "shift"):
                    at = f"blocks.{number}.{kind}"
                    weights = {part: films[f"{at}.{part}"] for part in ("weight", "bias")}
                    layer = torch.nn.Linear(*reversed(weights["weight"].shape))
                    layer.load_state_dict(weights)
                    layers.append(layer)
                tower.blocks[number] = FilmBlock(block, *layers)
        tower = tower.to(self.dtype).eval()
        self.watch_tower(tower)
        return tower

    def watch_tower(self, tower):
        named = lambda stage: lambda *hooked: self.stages.keep(f"{self.image}{stage}", hooked[-1])
        name = "dino" if tower.num_prefix_tokens else "siglip"
        tower.patch_embed.register_forward_hook(named(f"{name}.patch_embed"))
        tower.norm_pre.register_forward_hook(named(f"{name}.embedded"))
        for number, block in enumerate(tower.blocks):
            block.register_forward_hook(named(f"{name}.block{number}.out"))

    def watch_llama(self):
        for number, layer in enumerate(self.llama.model.layers):
            layer.register_forward_hook(self.stages.hook(f"llm.layer{number}.out"))
        self.llama.model.norm.register_forward_hook(self.stages.hook("llm.final_norm.out"))

    def vision(self, picture, image="", language=None):
        """Features of an uint8 picture [224, 224, 3]: [1, 256, width of both towers]."""
        self.image = image
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
        features = []
        for norm, (name, tower) in zip(self.norms, self.towers.items()):
            mean, std = (torch.tensor(norm[part])[:, None, None] for part in ("mean", "std"))
            for block in tower.blocks if language is not None else []:
                block.language = language
            last = len(tower.blocks) - 2
            (x,) = tower.get_intermediate_layers(
                ((pixels - mean) / std)[None].to(self.dtype), n={last}
            )
            features.append(x)
            self.stages.keep(f"{image}patch_features.{name}", x)
        return torch.cat(features, 2)

    def project(self, x):
        for number in (1, 2, 3):
            weight, bias = (self.projector[f"projector.fc{number}.{x}"] for x in ("weight", "bias"))
            x = F.linear(x, weight, bias)
            x = F.gelu(x) if number < 3 else x
        self.stages.keep("projector.out", x)
        return x

    def embed(self, ids):
        return self.llama.get_input_embeddings()(torch.tensor([ids]))

    def decode(self, picture, ids, steps=7):
        """Greedy tokens and the float32 logits of every step."""
        self.stages.clear()
        image = self.project(self.vision(picture))
        text = self.embed(ids)
        x = torch.cat([text[:, :1], image, text[:, 1:]], 1)
        self.stages.keep("llm.inputs_embeds", x)
        tokens, logits, cache = [], [], None
        for _ in range(steps):
            inputs = {"input_ids": torch.tensor([tokens[-1:]])} if tokens else {"inputs_embeds": x}
            out = self.llama(**inputs, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0, -1].float())
            tokens.append(int(logits[-1].argmax()))
        return tokens, torch.stack(logits)

    def chunk(self, pictures, ids, state, shape, head=True):
        """A chunk of OpenVLA-OFT: normalised actions [steps, dimensions], or logits without the
        head."""
        self.stages.clear()
        text = self.embed([*ids, STOP])
        language = text.mean(1) if isinstance(self.towers["dino"].blocks[0], FilmBlock) else None
        views = [
            self.vision(picture, f"image{number}.", language)
            for number, picture in enumerate(pictures)
        ]
        parts = [text[:, :1], self.project(torch.cat(views, 1))]
        if state is not None:
            row = torch.tensor([[state]], dtype=torch.float32).to(self.dtype)
            row = self.layer(self.state, "fc2", F.gelu(self.layer(self.state, "fc1", row)))
            self.stages.keep("proprio.token", row)
            parts.append(row)
        answers = shape[0] * shape[1]
        zeros = torch.zeros(1, answers, text.shape[-1], dtype=self.dtype)
        x = torch.cat([*parts, text[:, 1:-1], zeros, text[:, -1:]], 1)
        self.stages.keep("llm.inputs_embeds", x)
        start = x.shape[1] - answers - 2
        read = slice(start, start + answers)
        rows = self.bidirectional(x)[:, read]
        for name in [name for name in self.stages if name.startswith("llm.layer")]:
            self.stages[f"{name}.read"] = self.stages[name][read]
        self.stages["action_hidden_states"] = self.stages.pop("llm.final_norm.out")[read]
        if not head:
            return self.llama.lm_head(rows)[0].float()
        return self.regression(rows.reshape(1, shape[0], -1))[0].float()

    def bidirectional(self, x):
        """The language model without a mask, as OpenVLA-OFT's fork of transformers runs it."""
        masked = F.scaled_dot_product_attention

        def unmasked(query, key, value, **_):
            return masked(query, key, value)

        F.scaled_dot_product_attention = unmasked
        try:
            return self.llama.model(inputs_embeds=x, use_cache=False).last_hidden_state
        finally:
            F.scaled_dot_product_attention = masked

    @staticmethod
    def layer(weights, name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def regression(self, x):
        def norm(x, name):
            weight, bias = (self.head[f"{name}.{part}"] for part in ("weight", "bias"))
            return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)

        def kept(name, x):
            self.stages.keep(f"head.{name}", x)
            return x

        x = kept("fc1", self.layer(self.head, "fc1", kept("layer_norm1", norm(x, "layer_norm1"))))
        x = F.relu(x)
        for block in range(2):
            at = f"mlp_resnet_blocks.{block}.ffn"
            x = x + F.relu(self.layer(self.head, f"{at}.1", norm(x, f"{at}.0")))
            kept(f"block{block}", x)
        x = kept("layer_norm2", norm(x, "layer_norm2"))
        return kept("fc2", self.layer(self.head, "fc2", x))
