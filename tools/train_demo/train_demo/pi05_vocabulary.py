"""Text of the small pi0.5: PaliGemma's special tokens, the words of the tasks, and state bins.

A bin is a token of its own (PaliGemma writes digits), and all instructions of the tasks have the
same number of tokens, so that a batch needs no padding.
"""

import json

import numpy as np
from tokenizers import Tokenizer

PAD, EOS, BOS, UNKNOWN = range(4)
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
COLOURS = ("red", "green", "blue", "yellow")
BOWLS = ("white", "black")
TASKS = ("touch", "push", "pick", "place")
INSTRUCTIONS = {
    "touch": "touch the {} block",
    "push": "push the {} block",
    "pick": "pick up the {} block",
    "place": "put the {} block in the {} bowl",
}
END = ";\nAction:▁"
PIECES = [
    *"Task: ,▁State: ▁touch ▁push ▁pick▁up ▁put ▁the ▁block ▁in ▁bowl ▁pick ▁up".split(),
    *(f"▁{colour}" for colour in (*COLOURS, *BOWLS)),
    *(f"▁block▁in▁the▁{bowl}▁bowl" for bowl in BOWLS),
    END,
    *"▁ , . ▁-1 ▁State: ;".split(),
]
BINS = 256
FIRST_BIN = len(SPECIAL) + len(PIECES)
BELOW = len(SPECIAL) + PIECES.index("▁-1")  # a value below the range of the bins
SIZE = 320
assert FIRST_BIN + BINS <= SIZE


def tokenizer_json():
    """Content of tokenizer.json: a unigram model in which the fewest pieces win."""
    special = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    pieces = PIECES + [f"▁{number}" for number in range(BINS)]
    assert len(set(pieces)) == len(pieces)
    bos, text = (
        {"SpecialToken": {"id": "<bos>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": t, **special} for i, t in enumerate(SPECIAL)],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": UNKNOWN,
            "vocab": [[t, 0.0] for t in SPECIAL] + [[piece, -1.0] for piece in pieces],
            "byte_fallback": False,
        },
    }


def state_bins(normalized):
    """`numpy.digitize(x, linspace(-1, 1, 257)[:-1]) - 1`, as LeRobot: -1 below the range."""
    return np.digitize(normalized, np.linspace(-1.0, 1.0, BINS + 1)[:-1]) - 1


class Vocabulary:
    def __init__(self, text=None):
        self.tokenizer = Tokenizer.from_str(text or json.dumps(tokenizer_json()))

    def prompt_ids(self, instruction, bins):
        """Ids of the whole prompt, BOS first."""
        numbers = " ".join(str(number) for number in bins)
        return self.tokenizer.encode(f"Task: {instruction}, State: {numbers};\nAction: ").ids

    def table(self, states):
        """Ids [tasks, block colours, bowls + 1, T] with bins of 0; row 0 of bowls: without one.

        The bins are the `states` ids before the last one.
        """
        rows = np.zeros((len(TASKS), len(COLOURS), len(BOWLS) + 1, 0), np.int64)
        for t, task in enumerate(TASKS):
            for c, colour in enumerate(COLOURS):
                for b, bowl in enumerate((None, *BOWLS)):
                    if (task == "place") != (bowl is not None):
                        continue
                    ids = self.prompt_ids(INSTRUCTIONS[task].format(colour, bowl), [0] * states)
                    if rows.shape[-1] == 0:
                        rows = np.zeros((*rows.shape[:3], len(ids)), np.int64)
                    if len(ids) != rows.shape[-1] or UNKNOWN in ids:
                        raise ValueError(f"'{task}': {len(ids)} tokens {ids}; change PIECES")
                    rows[t, c, b] = ids
        return rows
