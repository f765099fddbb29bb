"""Text of the small pi0.5: PaliGemma's special tokens, the words of the tasks, and state bins.

A bin is a token of its own (PaliGemma writes digits), and all instructions of the tasks have the
same number of tokens, so that a batch needs no padding.
"""

import json

import numpy as np
from tokenizers import Tokenizer

from . import unigram
from .instructions import BOWLS, COLOURS, prompt_table

PAD, EOS, BOS, UNKNOWN = range(4)
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
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
    """Content of tokenizer.json."""
    pieces = PIECES + [f"▁{number}" for number in range(BINS)]
    assert len(set(pieces)) == len(pieces)
    return unigram.tokenizer(SPECIAL, pieces, bos=BOS, unknown=UNKNOWN, prepend=False)


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
        return prompt_table(lambda text: self.prompt_ids(text, [0] * states), UNKNOWN)
