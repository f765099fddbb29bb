"""Compares the TT-NN functions that each operation calls in operations.cpp and in shim_ops.py.

check_calls.py
"""

import ast
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
SHIM = HERE.parents[1] / "crates" / "tt-metal-sys" / "shim" / "operations.cpp"
# Helpers of either file, and what they call.
ALIASES = {"reshaped": "reshape", "copy_of": "assign", "split_heads": "nlp_create_qkv_heads"}
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
        found = re.findall(namespaces, body) + re.findall(r"\b(reshaped|copy_of)\(", body)
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
            if named == "ttnn" or (named == "self" and node.attr == "slice"):
                found.add(node.attr)
        calls[method.name] = found - VALUES - {"experimental", "transformer"}
    return calls


def main():
    shim = of_shim(SHIM.read_text())
    replay = of_replay((HERE / "shim_ops.py").read_text())
    bad = []
    for name, calls in shim.items():
        if name in ELSEWHERE:
            continue
        ours = replay.get(RENAMED.get(name, name))
        if ours != calls:
            bad.append(
                f"  {name}: operations.cpp {sorted(calls)}, shim_ops.py {sorted(ours or [])}"
            )
    print(
        f"shim_ops.py: {len(shim) - len(ELSEWHERE) - len(bad)} operations call what the shim calls"
    )
    print("\n".join(bad), end="\n" if bad else "")
    sys.exit(1 if bad or len(shim) < 20 else 0)


if __name__ == "__main__":
    main()
