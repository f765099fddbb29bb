"""Words and action tokens.

Ids: 64 words, 256 action bins, 64 padding (OpenVLA: 32 000 and 64 padding).
"""

import json

import numpy as np
from tokenizers import Tokenizer

WORD_SLOTS = 64
BINS = 256
PADDING = 64
ACTION_END = WORD_SLOTS + BINS
SIZE = ACTION_END + PADDING
BOS, EMPTY_WORD = 1, "▁"
# Action values that hold no information for this robot (rotations) still need a range that zero
# lies in the middle of.
EDGES = np.linspace(-1.0, 1.0, BINS)
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2

SPECIAL = ["<unk>", "<s>", "</s>"]
# Longest first is what the segmentation prefers: the fixed part of the prompt costs two tokens
# instead of twelve.
PIECES = [
    EMPTY_WORD,
    "▁In:▁What▁action▁should▁the▁robot▁take▁to",
    "?\nOut:",
    "▁pick▁up",
    *"▁In: ▁What ▁action ▁should ▁the ▁robot ▁take ▁to ▁touch ▁push ▁pick ▁up ▁put ▁in".split(),
    *"▁on ▁a ▁and".split(),
    *"▁red ▁green ▁blue ▁yellow ▁white ▁black ▁block ▁bowl ▁gripper ▁move ▁go ▁stop".split(),
    *". , ? ! \n Out:".split(" "),
    # So that all instructions of one policy have the same number of tokens.
    *(f"▁block▁in▁the▁{bowl}▁bowl" for bowl in ("white", "black")),
]


def prompt(instruction):
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


def tokenizer_json():
    """Content of tokenizer.json: a unigram model with equal costs, Llama's normaliser and BOS.

    With equal costs the segmentation with the fewest pieces wins.
    """
    special = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    added = [{"id": i, "content": token, **special} for i, token in enumerate(SPECIAL)]
    added.append({"id": ACTION_END, "content": "<PAD>", **special})
    bos, text = (
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    vocabulary = [[token, 0.0] for token in SPECIAL] + [[piece, -1.0] for piece in PIECES]
    assert len(vocabulary) <= WORD_SLOTS and len({piece for piece, _ in vocabulary}) == len(
        vocabulary
    )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": False},
    }


class Vocabulary:
    def __init__(self, text=None):
        self.tokenizer = Tokenizer.from_str(text or json.dumps(tokenizer_json()))
        self.empty_word = self.tokenizer.token_to_id(EMPTY_WORD)

    def prompt_ids(self, instruction):
        """Ids of the whole prompt as OpenVLA feeds it: BOS first, the empty word last."""
        ids = self.tokenizer.encode(prompt(instruction)).ids
        return ids if ids[-1] == self.empty_word else [*ids, self.empty_word]


def normalize(action, stats):
    """Actions [.., 7] to -1..1 as in OpenVLA's data pipeline.

    By percentiles where the mask is true, clipped.
    """
    low, high, mask = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
    scaled = 2 * (action - low) / np.where(high > low, high - low, 1.0) - 1
    return np.clip(np.where(mask, scaled, action), -1, 1)


def action_ids(normalized):
    return ACTION_END - np.digitize(normalized, EDGES)


def action_values(ids, stats):
    """Action tokens [.., 7] to physical units; ValueError for an id that is not an action."""
    ids = np.asarray(ids)
    if ((ids < WORD_SLOTS) | (ids >= ACTION_END)).any():
        raise ValueError(
            f"tokens {ids.tolist()} are not all action tokens ({WORD_SLOTS}..{ACTION_END - 1})"
        )
    values = CENTRES[np.minimum(ACTION_END - ids - 1, BINS - 2)]
    low, high, mask = (np.asarray(stats[name]) for name in ("q01", "q99", "mask"))
    return np.where(mask, 0.5 * (values + 1) * (high - low) + low, values)
