"""The simulated cell of this repository, `sim/tabletop`."""

import sys
from pathlib import Path


def simulator():
    """The package `tabletop`, imported from sim/."""
    path = str(Path(__file__).resolve().parents[3] / "sim")
    if path not in sys.path:
        sys.path.insert(0, path)
    import tabletop

    return tabletop
