"""Words and action tokens.

Ids: 64 words, 256 action bins, 64 padding (OpenVLA: 32 000 and 64 padding).
"""

import json

import numpy as np
from tokenizers import Tokenizer

from . import unigram

WORD_SLOTS = 64
BINS = 256
PADDING = 64
ACTION_END = WORD_SLOTS + BINS
SIZE = ACTION_END + PADDING
UNKNOWN, BOS, EMPTY_WORD = 0, 1, unigram.SPACE
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
    """Content of tokenizer.json, with Llama's normaliser and BOS."""
    assert len(SPECIAL) + len(PIECES) <= WORD_SLOTS and len(set(PIECES)) == len(PIECES)
    added = [(ACTION_END, "<PAD>")]
    return unigram.tokenizer(SPECIAL, PIECES, bos=BOS, unknown=UNKNOWN, prepend=True, added=added)


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
