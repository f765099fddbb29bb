"""Makes a copy of a checkpoint with untrained random weights, as a baseline."""

import json
import shutil
import zipfile

import numpy as np


STORAGES = {b"BFloat16Storage": "<u2", b"FloatStorage": "<u4"}


def as_bfloat16(values):
    """float32 to bfloat16 as 16 bits, rounded to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def initial(name, shape, random):
    """Initial values as in tools/train_demo: norms 1, biases 0, matrices by their input width."""
    if name.endswith(".bias"):
        return np.zeros(shape)
    if len(shape) == 1:
        return np.full(shape, 0.5 if "scale_factor" in name else 1.0)
    if name.endswith("embed_tokens.weight"):
        return random.normal(0, 0.5, shape)
    if name.endswith(("lm_head.weight", "pos_embed", "cls_token", "reg_token")):
        return random.normal(0, 0.02, shape)
    return random.normal(0, np.prod(shape[1:]) ** -0.5, shape)


def word_of(path, entries):
    """The type of all values of a `.pt` file, as unsigned integers of that size."""
    pickle = next(content for entry, content in entries if entry.filename.endswith("/data.pkl"))
    found = [kind for kind in STORAGES if b"torch\n" + kind + b"\n" in pickle]
    if len(found) != 1 or pickle.count(b"Storage\n") != 1:
        raise ValueError(f"{path}: its tensors are not all float32 or all bfloat16")
    return STORAGES[found[0]]


def make(source, folder, seed=0):
    """Copies the folder `source` to `folder` and replaces the values of its weights.

    Files of statistics beside them, as LeRobot's, stay. In `.pt` files, whose shapes are not read,
    the values of each tensor are put in a random order.
    """
    random = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    for path in sorted(folder.glob("model*.safetensors")):
        content = bytearray(path.read_bytes())
        first = 8 + int.from_bytes(content[:8], "little")
        for name, entry in sorted(json.loads(content[8:first]).items()):
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise ValueError(f"{path}: {name} is {entry['dtype']}, not BF16")
            begin, end = entry["data_offsets"]
            content[first + begin : first + end] = as_bfloat16(
                initial(name, entry["shape"], random)
            ).tobytes()
        path.write_bytes(content)
    for path in sorted(folder.glob("*.pt")):
        with zipfile.ZipFile(path) as file:
            entries = [(entry, file.read(entry)) for entry in file.infolist()]
        word = word_of(path, entries)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for entry, content in entries:
                if "/data/" in entry.filename:
                    content = random.permutation(np.frombuffer(content, word)).tobytes()
                file.writestr(entry, content)
    return folder
