"""Runs the data-movement kernels as RISC-V programs on wolfpine's Wormhole and Blackhole.

Each kernel is compiled by a RISC-V compiler that is not Tenstorrent's (Debian's
`gcc-riscv64-unknown-elf`) with the device headers of TT-NN's wheel, started without tt-metal's
runtime (riscv.py, core/start.cpp), and its results are compared byte for byte with what Python
computes from the same inputs. Injected faults must be noticed.

    kernels.py TTNN_PACKAGE FOLDER_FOR_PROGRAMS

Exit code 3: the compiler (GCC 12 or newer) or its C library is not installed.
"""

import argparse
import concurrent.futures
import itertools
import math
import os
import pathlib
import random
import struct
import sys
import time

# Before anything of wolfpine: it sets the environment.
from riscv import (
    ARCHES,
    FILL,
    INTERLEAVED,
    READER,
    WRITER,
    Chip,
    Compiler,
    Program,
    Tensor,
    have_compiler,
    pack_words,
)
from framework.network.alignment import NoCAlignmentError


def pack_floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def float_bits(value):
    return int.from_bytes(pack_floats([value]), "little")


def to_float(value):
    """Rounds to float32."""
    return struct.unpack("<f", pack_floats([value]))[0]


def gaussian(count, seed):
    source = random.Random(seed)
    return [to_float(source.gauss(0, 1)) for _ in range(count)]


def row_tiles(values):
    """F32 tiles of one row: what the other rows hold does not count."""
    tiles = []
    for at in range(0, len(values), 32):
        row = pack_floats(values[at : at + 32])
        tiles.append(row[:64] + FILL * 960 + row[64:] + FILL * 3008)
    return b"".join(tiles)


def page(count):
    """Bytes of the one page of a scratch buffer, as the programs in Rust ask for them."""
    return -(-count // 32) * 32


class Head:
    """What the selection of a token reads and writes, and what it must write."""

    BINS, FIRST_ID, WIDTH, BEHIND = 255, 100, 96, 144

    def __init__(self, chip, logits):
        self.chip, self.logits = chip, logits
        rows = len(logits) + self.BEHIND
        source = random.Random(20)
        self.embeddings = [source.randbytes(2 * self.WIDTH) for _ in range(rows)]
        self.bin_centres = [to_float((2 * i + 1) / self.BINS - 1) for i in range(self.BINS)]
        self.centres = Tensor(chip, 4 * self.BINS, 1, pack_floats(self.bin_centres))
        self.table = Tensor(chip, 2 * self.WIDTH, rows, b"".join(self.embeddings))
        self.row = Tensor(chip, 2048, self.WIDTH // 32)
        self.result = Tensor(chip, 32, 1)

    @classmethod
    def compile_args(cls, tiles, count):
        ids = [cls.FIRST_ID, cls.FIRST_ID + count]
        return [tiles, cls.BINS, *ids, cls.WIDTH, *[INTERLEAVED] * 5]

    def load(self, program, values, kept):
        chip = self.chip
        tensors = [values, self.centres, self.table, self.row, self.result]
        sizes = [kept, 4 * self.BINS, 2 * self.WIDTH, 32]
        buffers = {index: chip.buffer(page(size)) for index, size in enumerate(sizes)}
        chip.load(program, [tensor.address for tensor in tensors], buffers)

    def check(self):
        """The lowest index wins ties. With a NaN only their number counts."""
        nans = sum(math.isnan(logit) for logit in self.logits)
        result = struct.unpack("<8I", self.result.read())
        if nans:
            assert result[0] == 0 and result[6] == nans, result
            return
        order = sorted(range(len(self.logits)), key=lambda i: (-self.logits[i], i))
        best, second = order[:2]
        place = min(len(self.logits) - best - 1, self.BINS - 1)
        centre = float_bits(self.bin_centres[place])
        # Both zeros are equal, so that either may be reported.
        largest = [float_bits(self.logits[i]) for i in (best, second)]
        reported = [0 if bits == 0x80000000 else bits for bits in result[4:6]]
        largest = [0 if bits == 0x80000000 else bits for bits in largest]
        wanted = [best, self.FIRST_ID + best, place, centre, *largest, 0, 0]
        assert [*result[:4], *reported, *result[6:]] == wanted, f"{result} instead of {wanted}"
        row, wanted = self.embeddings[self.FIRST_ID + best], b""
        for at in range(0, 2 * self.WIDTH, 64):
            wanted += row[at : at + 32] + FILL * 480 + row[at + 32 : at + 64] + FILL * 1504
        assert self.row.read() == wanted, "the embedding"


def logits_to_pick(count):
    flat, rising = [-1.0] * count, [-0.0 if i % 2 == 0 else 0.0 for i in range(count)]
    cases = [gaussian(count, 10), flat, rising]
    for edge in (0, 31, count - 1):
        one = [-math.inf] * count
        one[edge], one[(edge + 7) % count] = -3.5, -4.0
        cases.append(one)
    unfit = gaussian(count, 9)
    unfit[3], unfit[count - 56] = math.nan, -math.nan
    return [*cases, unfit]


def pick_action(arch):
    """Argmax, bin and embedding of 256 logits."""
    count = 256
    args = Head.compile_args(count // 32, count)
    program = Program(arch, "dataflow/pick_action.cpp", args, READER)
    yield [program]
    for logits in logits_to_pick(count):
        chip = Chip(arch)
        head = Head(chip, logits)
        head.load(program, Tensor(chip, 4096, count // 32, row_tiles(logits)), 4 * count)
        chip.run()
        head.check()
        yield


def candidates_of(program, logits):
    """What the cores of a chip find in their shares of the logits."""
    arch, count = program.arch, len(logits)
    tiles, cores = -(-count // 32), len(arch.tiles)
    share = -(-tiles // cores)
    padded = logits + [1e9] * (32 * tiles - count)  # the kernel must not look at these
    chip = Chip(arch, cores)
    values = Tensor(chip, 4096, tiles, row_tiles(padded))
    shard = Tensor(chip, 32, 1, pack_words([0, count, 0, 0, 0, 0, 0, 0]))
    candidates = Tensor(chip, 4096, 1)
    for core in range(cores):
        first = min(core * share, tiles)
        own = [first, min(share, tiles - first), core, cores]
        buffers = {index: chip.buffer(size) for index, size in enumerate([128 * share, 32, 64])}
        addresses = [values.address, shard.address, candidates.address]
        chip.load(program, [*addresses, *own], buffers, core)
    chip.run()
    return candidates.read()


def scan_and_pick(arch):
    """The same by candidates of three cores, of 300 logits in ten tiles."""
    count = 300
    scan = scan_program(arch)
    args = Head.compile_args(1, count)
    pick = Program(arch, "dataflow/pick_candidate.cpp", args, READER)
    yield [scan, pick]
    for logits in logits_to_pick(count):
        found = candidates_of(scan, logits)
        assert FILL * 4 not in found, "a place without a candidate"
        chip = Chip(arch)
        head = Head(chip, logits)
        head.load(pick, Tensor(chip, 4096, 1, found), 4096)
        chip.run()
        head.check()
        yield


def scan_program(arch, faults=()):
    args = [INTERLEAVED] * 3
    return Program(arch, "dataflow/scan_logits.cpp", args, READER, list(faults))


def patch_programs(arch, side, patch, stride):
    args = [side, patch, stride, INTERLEAVED]
    reader = Program(arch, "dataflow/image_patches.cpp", args, READER)
    return [reader, Program(arch, "dataflow/write_tiles.cpp", [2048, INTERLEAVED], WRITER)]


def patch_matrix(programs, arch, side, patch):
    """Runs the reader and the writer together: the tiles, and what they must be."""
    reader, writer = programs
    across, depth = side // patch, 3 * patch * patch
    patches = across * across
    pixels = random.Random(side).randbytes(3 * side * side)
    tile_rows, tile_columns = -(-patches // 32), -(-depth // 32)
    chip = Chip(arch)
    image = Tensor(chip, 3 * side, side, pixels)
    out = Tensor(chip, 2048, tile_rows * tile_columns)
    rows = max(
        min(32 * row + 31, patches - 1) // across + 1 - 32 * row // across
        for row in range(tile_rows)
    )
    stride = reader.compile_args[2]
    buffers = {0: chip.buffer(stride, rows * patch), 16: chip.buffer(2048, 2)}
    chip.load(reader, [image.address, 0, tile_rows, 1, 0, tile_columns], buffers)
    chip.load(writer, [out.address, 0, tile_columns, tile_rows, tile_columns], buffers)
    chip.run()

    wanted = bytearray(2048 * tile_rows * tile_columns)
    for at, k in itertools.product(range(patches), range(depth)):
        channel, y, x = k // (patch * patch), k // patch % patch, k % patch
        pixel = (at // across * patch + y) * side + at % across * patch + x
        value = float_bits(pixels[3 * pixel + channel] - 128.0) >> 16
        row, column = at % 32, k % 32
        place = (row // 16 * 2 + column // 16) * 256 + row % 16 * 16 + column % 16
        start = 2048 * (at // 32 * tile_columns + k // 32) + 2 * place
        wanted[start : start + 2] = struct.pack("<H", value)
    return out.read(), bytes(wanted)


def padded_row(arch, side):
    return -(-3 * side // arch.alignment) * arch.alignment


def image_patches(arch):
    """The patch matrix, by a reader and a writer on one tile: ragged edges, two rows of tiles."""
    for side, patch in [(15, 5), (24, 4)]:
        programs = patch_programs(arch, side, patch, padded_row(arch, side))
        yield programs
        found, wanted = patch_matrix(programs, arch, side, patch)
        assert found == wanted
        yield


def read_columns(arch):
    """A row of tiles and one column of tiles of another matrix, as they lie in the buffers."""
    depth, columns, block = 6, 3, 2
    args = [depth, columns, block, 2048, 1088, INTERLEAVED, INTERLEAVED]
    program = Program(arch, "dataflow/read_columns.cpp", args, READER)
    yield [program]
    source = random.Random(7)
    for column in range(columns):
        chip = Chip(arch)
        left, right = source.randbytes(2048 * depth), source.randbytes(1088 * depth * columns)
        tensors = [Tensor(chip, 2048, depth, left), Tensor(chip, 1088, depth * columns, right)]
        # No tile is taken out: there is room for all of them.
        buffers = {0: chip.buffer(2048, depth), 1: chip.buffer(1088, depth)}
        chip.load(program, [tensors[0].address, tensors[1].address, column], buffers)
        chip.run()
        pages = [
            right[1088 * at : 1088 * (at + 1)] for at in range(column, depth * columns, columns)
        ]
        for index, wanted in enumerate([left, b"".join(pages)]):
            found = bytes(chip.device.read(chip.tiles[0], buffers[index][0], len(wanted)))
            assert found == wanted, f"buffer {index}"
        yield


def faults(arch):
    """A kernel without its barrier, and rows of an image that ignore the chip's alignment."""
    without = scan_program(arch, [("noc_async_read_barrier();", "")])
    scan, side, patch = scan_program(arch), 15, 5
    narrow = patch_programs(arch, side, patch, padded_row(arch, side) - 16)
    yield [scan, without, *narrow]
    logits = gaussian(300, 10)
    assert candidates_of(without, logits) != candidates_of(scan, logits), "no barrier, unnoticed"
    yield
    try:
        patch_matrix(narrow, arch, side, patch)
    except NoCAlignmentError:
        yield
    else:
        raise AssertionError("a misaligned read was not noticed")


CASES = [pick_action, scan_and_pick, image_patches, read_columns, faults]


def check(case, arch, compiler):
    """Runs a case: it yields programs to make before their first use, and None for each check."""
    checks = 0
    for wanted in case(arch):
        if wanted is None:
            checks += 1
            continue
        for program in wanted:
            compiler.make(program)
    return checks


def run_case(name, arch_name, ttnn, out):
    case = next(each for each in CASES if each.__name__ == name)
    arch = next(each for each in ARCHES if each.name == arch_name)
    started = time.monotonic()
    try:
        found = f"{check(case, arch, Compiler(ttnn, out / name))} checks passed"
        good = True
    except Exception as error:  # whatever the simulated chip refuses is reported
        found, good = f"FAILED: {type(error).__name__}: {error}", False
    return good, f"   {arch_name} {name}: {found} ({time.monotonic() - started:.1f} s)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ttnn", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    if not have_compiler():
        print(
            "   SKIPPED: needs gcc-riscv64-unknown-elf (12 or newer), picolibc-riscv64-unknown-elf"
        )
        return 3
    with concurrent.futures.ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        runs = [
            pool.submit(run_case, case.__name__, arch.name, args.ttnn.resolve(), args.out.resolve())
            for arch in ARCHES
            for case in CASES
        ]
        good = []
        for run in runs:
            passed, line = run.result()
            good.append(passed)
            print(line, flush=True)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
