"""Compares the TT-NN functions that each operation calls in the shim and in shim_ops.py.

check_calls.py
"""

import ast
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
SHIM = HERE.parents[1] / "crates" / "tt-metal-sys" / "shim"
FILES = ("operations.cpp", "decode.cpp")
# Helpers of either side, and what they call. A view with a padded shape is a reshape in Python.
ALIASES = {
    "reshaped": "reshape",
    "copy_of": "assign",
    "split_heads": "nlp_create_qkv_heads",
    "placed": "to_memory_config",
    "view": "reshape",
}
# Methods of Shim that the operations share.
HELPERS = {"placed"}
# Values, not functions.
VALUES = {"bfloat16"}
# Kept by the class itself: a name of Python's own, and programs, which replay.py builds.
RENAMED = {"slice": "slice_of"}
ELSEWHERE = {"run_program"}


def of_shim(text):
    """Operation -> functions of TT-NN."""
    calls = {}
    for part in text.split('extern "C" ttp_status ttp_')[1:]:
        name, body = part.split("(", 1)
        namespaces = r"\b(?:ttnn|compat)::(?:experimental::|transformer::)?([a-z_0-9]+)\("
        found = re.findall(namespaces, body) + re.findall(r"\b(reshaped|copy_of|placed)\(", body)
        calls[name] = {ALIASES.get(call, call) for call in found}
    return calls


def of_replay(text):
    """Method of Shim -> functions of TT-NN."""
    tree = ast.parse(text)
    shim = next(node for node in tree.body if getattr(node, "name", "") == "Shim")
    calls = {}
    for method in (node for node in shim.body if isinstance(node, ast.FunctionDef)):
        found = set()
        for node in ast.walk(method):
            if not isinstance(node, ast.Attribute) or not node.attr.islower():
                continue
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            named = isinstance(root, ast.Name) and root.id
            if named == "ttnn" or (named == "self" and node.attr in {"slice", *HELPERS}):
                found.add(ALIASES.get(node.attr, node.attr))
        calls[method.name] = found - VALUES - {"experimental", "transformer"}
    return calls


def main():
    shim = {}
    for name in FILES:
        shim |= of_shim((SHIM / name).read_text())
    replay = of_replay((HERE / "shim_ops.py").read_text())
    bad = []
    for name, calls in shim.items():
        if name in ELSEWHERE:
            continue
        ours = replay.get(RENAMED.get(name, name))
        if ours != calls:
            bad.append(
                f"  {name}: the shim {sorted(calls)}, shim_ops.py {sorted(ours or [])}"
            )
    print(
        f"shim_ops.py: {len(shim) - len(ELSEWHERE) - len(bad)} operations call what the shim calls"
    )
    print("\n".join(bad), end="\n" if bad else "")
    sys.exit(1 if bad or len(shim) < 25 else 0)


if __name__ == "__main__":
    main()
