"""Runs two of our programs by TT-NN itself, with wolfpine's Wormhole as its device.

TT-NN of the wheel allocates, writes the descriptors' programs to a core and starts it, as on
silicon (without its dispatch cores: TT_METAL_SLOW_DISPATCH_MODE). The compiler that it wants,
SFPI, is in no registry: Debian's stands in for it (core/g++), which compiles tt-metal's firmware,
the data-movement kernels and the compute kernel. This one needs of SFPI only how an instruction of
Tensix is written; what uses the SFPU cannot be compiled so.

    programs.py FOLDER

Exit code 3: the compiler or its C library is not installed.
"""

import math
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import time

from riscv import HERE, KERNELS, PREFIX, Compiler, have_compiler, simulator_dir

LLK = "tt_metal/third_party/tt_llk/tt_llk_wormhole_b0/common/inc"


def make_root(ttnn, root):
    """A runtime root of TT-NN with the stand-in for SFPI."""
    shutil.rmtree(root, ignore_errors=True)
    binaries, objects = root / "runtime/sfpi/compiler/bin", root / "runtime/hw/lib/wormhole"
    binaries.mkdir(parents=True)
    objects.mkdir(parents=True)
    for each in ttnn.iterdir():
        if each.name not in ("runtime", "tt_metal"):
            (root / each.name).symlink_to(each)
    (root / "runtime/hw/toolchain").symlink_to(ttnn / "runtime/hw/toolchain")
    shutil.copytree(ttnn / "tt_metal", root / "tt_metal")
    compiler = Compiler(ttnn, root)
    stand_in = binaries / "riscv-tt-elf-g++"
    shutil.copy(HERE / "core/g++", stand_in)
    text = "".join(f"-isystem\n{each}\n" for each in compiler.of_host)
    (binaries / "system.args").write_text("-nostdinc++\n" + text)

    # An instruction of Tensix is its word, rotated by two bits, among those of RISC-V.
    ops = root / LLK / "ckernel_ops.h"
    word = "((uint32_t)(x) << 2 | (uint32_t)(x) >> 30)"
    found, count = re.subn(
        r"(#define INSTRUCTION_WORD\(x\)).*",
        rf'\1 __asm__ __volatile__(".word %0" : : "i"{word.join("()")})',
        ops.read_text(),
    )
    assert count == 1, "INSTRUCTION_WORD"
    ops.write_text(found)
    shutil.copy(HERE / "core/lltt.h", root / LLK / "lltt.h")
    (root / LLK / "sfpi.h").write_text("#pragma once\n")
    includes = ["limits", "ckernel.h", "ckernel_defs.h", "ckernel_globals.h"]
    lines = ["#pragma once", *(f"#include <{each}>" for each in includes)]
    (root / LLK / "ckernel_sfpu.h").write_text("\n".join(lines) + "\n")

    # What the wheel brings is in the intermediate language of SFPI's compiler.
    folders = [f"-I{each}" for each in [*compiler.of_metal(""), *compiler.of_metal("wormhole")]]
    defines = ["ARCH_WORMHOLE", "TENSIX_FIRMWARE", "FW_BUILD", "COMPILE_FOR_NCRISC"]
    defines += ["LOCAL_MEM_EN=0", "PROCESSOR_INDEX=1", "NUM_DRAM_BANKS=12", "NUM_L1_BANKS=64"]
    for name in (
        "toolchain/substitutes.cpp",
        "toolchain/tmu-crt0.S",
        "toolchain/wh-iram-start.S",
        "toolchain/wh-iram-trampoline.S",
        "firmware/src/tt-1xx/tdma_xmov.c",
        "firmware/src/tt-1xx/wormhole/noc.c",
    ):
        source = ttnn / "tt_metal/hw" / name
        flags = [*folders, *(f"-D{each}" for each in defines)]
        if source.suffix != ".S":
            flags += ["-Os", "-flto", "-std=c++17", "-fno-exceptions"]
        run = [stand_in, "-mcpu=tt-wh", *flags, "-c", source, "-o", objects / f"{source.stem}.o"]
        subprocess.run(run, check=True)


def source(name):
    """A kernel's text with our headers in place of their includes, as the shim gives it."""

    def header(match):
        return (KERNELS / "dataflow" / match[1]).read_text().replace("#pragma once", "")

    return re.sub(r'#include "(\.\./include/[^"]+)"', header, (KERNELS / name).read_text())


class Mesh:
    def __init__(self, ttnn):
        self.ttnn, self.device = ttnn, ttnn.open_device(device_id=0)

    def tensor(self, values, dims, dtype, layout):
        ttnn = self.ttnn
        return ttnn.Tensor(values, dims, dtype, layout, self.device, ttnn.DRAM_MEMORY_CONFIG)

    def row(self, tensor):
        values = tensor.cpu().to_list()
        return values[0][0]

    def cores(self, count):
        ttnn = self.ttnn
        return ttnn.CoreRangeSet(
            {ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(count - 1, 0))}
        )

    def kernel(self, name, compile_args, tensors, runtime_args, config):
        ttnn, runtime = self.ttnn, self.ttnn.RuntimeArgs()
        for core, args in enumerate(runtime_args):
            runtime[core][0] = args
        for tensor in tensors:
            compile_args = compile_args + ttnn.TensorAccessorArgs(tensor).get_compile_time_args()
        return ttnn.KernelDescriptor(
            kernel_source=source(name),
            source_type=ttnn.KernelDescriptor.SourceType.SOURCE_CODE,
            core_ranges=self.cores(len(runtime_args)),
            compile_time_args=compile_args,
            runtime_args=runtime,
            config=config,
        )

    def run(self, tensors, kernels, buffers, cores):
        ttnn = self.ttnn
        made = []
        for index, dtype, page_bytes, pages in buffers:
            form = ttnn.CBFormatDescriptor(
                buffer_index=index, data_format=dtype, page_size=page_bytes
            )
            made.append(
                ttnn.CBDescriptor(
                    total_size=page_bytes * pages,
                    core_ranges=self.cores(cores),
                    format_descriptors=[form],
                )
            )
        program = ttnn.ProgramDescriptor(kernels=kernels, semaphores=[], cbs=made)
        ttnn.generic_op(tensors, program)
        ttnn.synchronize_device(self.device)


def bits(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


def from_bits(word):
    return struct.unpack("<f", struct.pack("<I", word))[0]


def gaussian(count, seed, mask=0xFFFFFFFF):
    chance = random.Random(seed)
    return [from_bits(bits(chance.gauss(0, 1)) & mask) for _ in range(count)]


def pick_action(mesh):
    """Token, bin and embedding of the largest of 256 logits."""
    ttnn = mesh.ttnn
    count, bins, width, first = 256, 255, 96, 100
    logits, rows = gaussian(count, 3), count + 144
    centres = [from_bits(bits((2 * i + 1) / bins - 1)) for i in range(bins)]
    table = gaussian(rows * width, 4, 0xFFFF0000)
    tile, row_major = ttnn.TILE_LAYOUT, ttnn.ROW_MAJOR_LAYOUT
    tensors = [
        mesh.tensor(logits, [1, 1, 1, count], ttnn.float32, tile),
        mesh.tensor(centres, [1, 1, 1, bins], ttnn.float32, row_major),
        mesh.tensor(table, [1, 1, rows, width], ttnn.bfloat16, row_major),
        mesh.tensor([0.0] * width, [1, 1, 1, width], ttnn.bfloat16, tile),
        mesh.tensor([7] * 8, [1, 1, 1, 8], ttnn.uint32, row_major),
    ]
    args = [count // 32, bins, first, first + count, width]
    addresses = [tensor.buffer_address() for tensor in tensors]
    reader = ttnn.ReaderConfigDescriptor()
    kernel = mesh.kernel("dataflow/pick_action.cpp", args, tensors, [addresses], reader)
    sizes = [4 * count, 4 * bins + 4, 2 * width, 32]
    types = [ttnn.float32, ttnn.float32, ttnn.bfloat16, ttnn.uint32]
    buffers = [(at, dtype, size, 1) for at, (dtype, size) in enumerate(zip(types, sizes))]
    mesh.run(tensors, [kernel], buffers, 1)
    order = sorted(range(count), key=lambda i: (-logits[i], i))
    best, second = order[:2]
    place = min(count - best - 1, bins - 1)
    words = [bits(each) for each in (centres[place], logits[best], logits[second])]
    wanted = [best, first + best, place, *words, 0, 0]
    found = mesh.row(tensors[4])[0]
    assert found == wanted, f"{found} instead of {wanted}"
    at = (first + best) * width
    assert list(mesh.row(tensors[3])[0][:width]) == table[at : at + width], "the embedding"
    return "every word as computed"


def narrow_matmul(mesh):
    """A product with one column of tiles to a core: reader, Tensix's matrix unit, writer."""
    ttnn = mesh.ttnn
    depth, columns, block, rows = 4, 2, 2, 32
    inner, outer = 32 * depth, 32 * columns
    left, right = gaussian(rows * inner, 5, 0xFFFF0000), gaussian(inner * outer, 6, 0xFFFF0000)
    exact = [
        sum(left[i * inner + k] * right[k * outer + j] for k in range(inner))
        for i in range(rows)
        for j in range(outer)
    ]
    length = math.hypot(*exact)
    errors = {}
    for fidelity in ("LoFi", "HiFi2", "HiFi4"):
        x = mesh.tensor(left, [1, 1, rows, inner], ttnn.bfloat16, ttnn.TILE_LAYOUT)
        w = mesh.tensor(right, [1, 1, inner, outer], ttnn.bfloat16, ttnn.TILE_LAYOUT)
        empty = [0.0] * (rows * outer)
        out = mesh.tensor(empty, [1, 1, rows, outer], ttnn.float32, ttnn.TILE_LAYOUT)
        x_at, w_at, out_at = (each.buffer_address() for each in (x, w, out))
        config = ttnn.ComputeConfigDescriptor(
            math_fidelity=getattr(ttnn.MathFidelity, fidelity),
            math_approx_mode=False,
            fp32_dest_acc_en=True,
            bfp8_pack_precise=True,
        )
        read = "dataflow/read_columns.cpp", [depth, columns, block, 2048, 2048], [x, w]
        write = "dataflow/write_tiles.cpp", [4096], [out]
        each = range(columns)
        kernels = [
            mesh.kernel(*read, [[x_at, w_at, n] for n in each], ttnn.ReaderConfigDescriptor()),
            mesh.kernel(
                "compute/column_matmul.cpp", [depth, block], [], [[] for _ in each], config
            ),
            mesh.kernel(
                *write, [[out_at, n, 1, 1, 0] for n in each], ttnn.WriterConfigDescriptor()
            ),
        ]
        buffers = [
            (0, ttnn.bfloat16, 2048, 2 * block),
            (1, ttnn.bfloat16, 2048, 2 * block),
            (16, ttnn.float32, 4096, 1),
        ]
        mesh.run([x, w, out], kernels, buffers, columns)
        found = [value for row in mesh.row(out) for value in row]
        errors[fidelity] = math.dist(found, exact) / length
    # Each fidelity multiplies more bits of the factors.
    assert errors["LoFi"] > 3 * errors["HiFi2"] > 9 * errors["HiFi4"], errors
    assert errors["HiFi4"] < 1e-3, errors
    return "relative error " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items())


def main():
    if not have_compiler():
        print(f"   SKIPPED: no {PREFIX}g++ here")
        return 3
    import importlib.util

    ttnn_folder = pathlib.Path(importlib.util.find_spec("ttnn").origin).parent
    root = pathlib.Path(sys.argv[1]).resolve()
    make_root(ttnn_folder, root)
    simulator = pathlib.Path(simulator_dir("wormhole"))
    os.environ |= {
        "TT_METAL_RUNTIME_ROOT": str(root),
        "TT_METAL_HOME": str(root),
        "TT_METAL_CACHE": str(root / "cache"),
        "TT_METAL_SIMULATOR": str(simulator),
        "TT_METAL_MOCK_CLUSTER_DESC_PATH": str(simulator / "cluster_descriptor.yaml"),
        "TT_METAL_SLOW_DISPATCH_MODE": "1",
        "WOLFPINE_PYTHON": sys.executable,
        "TT_LOGGER_LEVEL": "fatal",
        "LOGURU_LEVEL": "ERROR",
    }
    # Where TT-NN puts its reports. Not the root: Python of wolfpine would import what lies there.
    reports = root / "cache"
    reports.mkdir()
    os.chdir(reports)
    import ttnn

    started = time.monotonic()
    mesh = Mesh(ttnn)
    print(f"   firmware compiled and started ({time.monotonic() - started:.1f} s)", flush=True)
    status = 0
    for case in (pick_action, narrow_matmul):
        started = time.monotonic()
        try:
            found = case(mesh)
        except Exception as error:  # the next program is tried too
            found, status = f"FAILED: {type(error).__name__}: {str(error)[:1500]}", 1
        print(f"   {case.__name__}: {found} ({time.monotonic() - started:.1f} s)", flush=True)
    ttnn.close_device(mesh.device)
    return status


if __name__ == "__main__":
    sys.exit(main())
