"""Words of the tasks, and the table of their prompts."""

import numpy as np

COLOURS = ("red", "green", "blue", "yellow")
BOWLS = ("white", "black")
TASKS = ("touch", "push", "pick", "place")
INSTRUCTIONS = {
    "touch": "touch the {} block",
    "push": "push the {} block",
    "pick": "pick up the {} block",
    "place": "put the {} block in the {} bowl",
}


def prompt_table(prompt_ids, unknown):
    """Ids `prompt_ids(instruction)`, [tasks, block colours, bowls + 1, T]; row 0: without a bowl.

    All have one length, so that a batch needs no padding, and no unknown token.
    """
    rows = np.zeros((len(TASKS), len(COLOURS), len(BOWLS) + 1, 0), np.int64)
    for t, task in enumerate(TASKS):
        for c, colour in enumerate(COLOURS):
            for b, bowl in enumerate((None, *BOWLS)):
                if (task == "place") != (bowl is not None):
                    continue
                text = INSTRUCTIONS[task].format(colour, bowl)
                ids = prompt_ids(text)
                if rows.shape[-1] == 0:
                    rows = np.zeros((*rows.shape[:3], len(ids)), np.int64)
                if len(ids) != rows.shape[-1] or unknown in ids:
                    raise ValueError(f"'{text}': {len(ids)} tokens {ids}; change PIECES")
                rows[t, c, b] = ids
    return rows
