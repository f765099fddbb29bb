"""Compares the shim and shim_ops.py: the TT-NN functions that each operation calls, and the numbers
that the blocks of a product are chosen by.

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


def numbers_of_shim(text):
    """The numbers that the shim chooses the blocks of a product by."""
    body = text.split("linear_config(", 1)[1].split("\n}\n", 1)[0]
    body = re.sub(r"//[^\n]*", "", body)
    return {int(number) for number in re.findall(r"(?<![\w.])(\d+)(?:u|ull)?\b", body)}


def numbers_of_replay(text):
    """The same of shim_ops.py."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
    method = next(node for node in nodes if node.name == "linear_config")
    constants = (node.value for node in ast.walk(method) if isinstance(node, ast.Constant))
    return {value for value in constants if type(value) is int}


def main():
    shim, bad = {}, []
    mirror = (HERE / "shim_ops.py").read_text()
    for name in FILES:
        shim |= of_shim((SHIM / name).read_text())
    replay = of_replay(mirror)
    numbers = numbers_of_shim((SHIM / FILES[0]).read_text()), numbers_of_replay(mirror)
    if numbers[0] - {0} != numbers[1] - {0}:
        bad.append(f"  linear_config: numbers of the shim {numbers[0]}, shim_ops.py {numbers[1]}")
    for name, calls in shim.items():
        if name in ELSEWHERE:
            continue
        ours = replay.get(RENAMED.get(name, name))
        if ours != calls:
            bad.append(
                f"  {name}: the shim {sorted(calls)}, shim_ops.py {sorted(ours or [])}"
            )
    right = len(shim) - len(ELSEWHERE) - len(bad)
    print(f"shim_ops.py: {right} operations call what the shim calls")
    print("\n".join(bad), end="\n" if bad else "")
    sys.exit(1 if bad or len(shim) < 25 else 0)


if __name__ == "__main__":
    main()
