"""An exported chunk policy in PyTorch, of either kind."""

import json

from .oft_export import PARTS, file_of
from .oft_policy import OftPolicy
from .pi05_policy import Pi05Policy


def load(folder):
    """The policy in `folder`; None when it is of single actions.

    Its `act(pictures, states, instructions)` gives chunks; with `real_time_chunking` it takes
    `given`, the action prefix of each.
    """
    kind = kind_of(folder)
    return kind and kind(folder)


def kind_of(folder):
    """The class of the policy in `folder`; None when it is of single actions."""
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if facts.get("type") == "pi05":
        return Pi05Policy
    return OftPolicy if file_of(folder, PARTS[0]).exists() else None


def act(policy, drivers, pictures, states):
    """Chunks for the unfinished episodes of `drivers`."""
    given = {}
    if policy.real_time_chunking:
        given = dict(given=[driver.meanwhile() for driver in drivers])
    return policy.act(pictures, states, [driver.scene.instruction for driver in drivers], **given)
