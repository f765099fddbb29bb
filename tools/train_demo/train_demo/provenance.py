"""Provenance of a checkpoint: kept through every resume, written next to the weights."""

import hashlib
import platform
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

# Options without influence on the result.
WITHOUT_EFFECT = ("out", "save_seconds", "workers")
PACKAGES = ("torch", "numpy", "mujoco", "pillow")


def provenance(chosen, base=None):
    """Options, the commit of this repository, versions and processor of a run that begins now.

    `base`: file of the weights that it begins with.
    """
    begin = {}
    if base:
        digest = hashlib.sha256(base.read_bytes()).hexdigest()
        begin = {"base": {"checkpoint": base.parent.name, "sha256": digest}}
    options = {name: value for name, value in vars(chosen).items() if name not in WITHOUT_EFFECT}
    return {
        "command": "tools/train_demo/run "
        + " ".join(
            f"--{name.replace('_', '-')} {written(value)}".rstrip()
            for name, value in options.items()
            if value is not False
        ),
        **begin,
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "processor": processor(),
    }


def written(value):
    return (
        ""
        if value is True
        else " ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )


def same_run(old, new):
    """The difference that makes it another run, or None.

    Only the command counts: another processor or version may round differently.
    """
    return (
        None
        if old["command"] == new["command"]
        else f"'{old['command']}', not with '{new['command']}'"
    )


def commit():
    """The repository's commit, with `-dirty` when training or simulator differ from it.

    None outside of a repository.
    """
    here = Path(__file__).resolve().parents[3]

    def git(*words):
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        head, changed = (
            git("rev-parse", "HEAD"),
            git("status", "--porcelain", "--", "sim/tabletop", "tools/train_demo"),
        )
    except OSError:
        return None
    return head and head + ("-dirty" if changed else "")


def processor():
    try:
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def die_with_parent():
    """Ends this worker with its parent, which alone handles Ctrl-C."""
    path = str(Path(__file__).resolve().parents[3] / "sim")
    if path not in sys.path:
        sys.path.insert(0, path)
    import processes

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.die_with_parent()
