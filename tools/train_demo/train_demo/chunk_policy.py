"""An exported chunk policy in PyTorch, of either kind."""

import json

from .oft_export import PARTS, file_of
from .oft_policy import OftPolicy
from .pi05_policy import Pi05Policy


def load(folder):
    """The policy in `folder`; None when it is of single actions.

    Its `act(pictures, states, instructions)` gives chunks; with `real_time_chunking` it takes
    `given`, the first steps of each.
    """
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if facts.get("type") == "pi05":
        return Pi05Policy(folder)
    return OftPolicy(folder) if file_of(folder, PARTS[0]).exists() else None


def act(policy, drivers, pictures, states):
    """Chunks for the unfinished episodes of `drivers`."""
    given = {}
    if policy.real_time_chunking:
        given = dict(given=[driver.meanwhile() for driver in drivers])
    return policy.act(pictures, states, [driver.scene.instruction for driver in drivers], **given)
