"""Programs for the data-movement cores of wolfpine's chips, of kernels and TT-NN's headers."""

import dataclasses
import itertools
import math
import os
import pathlib
import shutil
import struct
import subprocess

import yaml

# Latencies on the NoC: without them a missing barrier shows nothing. Read at the import.
os.environ["TT_SIM_COST_MODEL"] = "1"
from framework.arch import BLACKHOLE_PROFILE, WORMHOLE_PROFILE
from framework.device.blackhole import Blackhole
from framework.device.wormhole import Wormhole
from framework.pe.rv.babyriscv import BabyRISCVCoreType
from framework.sim import simulator_dir

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "kernels"
PREFIX = "riscv64-unknown-elf-"
# As the shim has it: TT-NN's reader is NCRISC on NoC 0, its writer BRISC on NoC 1.
READER, WRITER = ("ncrisc", 0), ("brisc", 1)
INTERLEAVED = 2  # the word of an accessor of a tensor in DRAM
FILL = b"\xee"  # what is in tensors that are written
# tt-metal's mailboxes lie before the programs, arguments and buffers behind them.
FIRST_BUFFER = 0x20000


@dataclasses.dataclass
class Arch:
    name: str
    device: type
    profile: object
    tiles: list  # coordinates of Tensix tiles in wolfpine
    coordinate_shift: int  # NOC_COORD_REG_OFFSET
    alignment: int  # of reads from DRAM
    march: str
    starts: dict  # of each core: where it starts, where its program lies
    defines: dict

    def __post_init__(self):
        """Banks as tt-metal makes them of a chip's description: the tile of the channel in
        wolfpine, the place on each NoC, the first address."""
        folder = pathlib.Path(simulator_dir(self.name))
        soc = yaml.safe_load((folder / "soc_descriptor.yaml").read_text())
        channels = self.profile.dram_channel_unified_coords
        size = soc["grid"]
        self.banks = []
        for view in soc["dram_views"]:
            ends = [soc["dram"][view["channel"]][end] for end in view["worker_endpoint"]]
            noc0, (x, y) = (tuple(map(int, end.split("-"))) for end in ends)
            noc1 = size["x_size"] - 1 - x, size["y_size"] - 1 - y
            self.banks.append((channels[view["channel"]], noc0, noc1, view["address_offset"]))


ARCHES = [
    Arch(
        name="wormhole",
        device=Wormhole,
        profile=WORMHOLE_PROFILE,
        tiles=[(18, 18), (19, 18), (18, 19)],
        coordinate_shift=4,
        alignment=32,
        march="rv32im",
        starts={"brisc": (0, 0x8000), "ncrisc": (0x12000, 0x12000)},
        defines={
            "ARCH_WORMHOLE": 1,
            "NUM_DRAM_BANKS": 12,
            "IS_NOT_POW2_NUM_DRAM_BANKS": 1,
            "NUM_L1_BANKS": 64,
            "LOG_BASE_2_OF_NUM_L1_BANKS": 6,
        },
    ),
    Arch(
        name="blackhole",
        device=Blackhole,
        profile=BLACKHOLE_PROFILE,
        tiles=[(1, 2), (2, 2), (1, 3)],
        coordinate_shift=0,
        alignment=64,
        march="rv32im_zicsr_zifencei_zba_zbb",
        starts={"brisc": (0, 0x8000), "ncrisc": (0x5BE0, 0x12000)},
        defines={
            "ARCH_BLACKHOLE": 1,
            "NUM_DRAM_BANKS": 8,
            "LOG_BASE_2_OF_NUM_DRAM_BANKS": 3,
            "NUM_L1_BANKS": 130,
            "IS_NOT_POW2_NUM_L1_BANKS": 1,
        },
    ),
]


def have_compiler():
    if not shutil.which(PREFIX + "g++"):
        return False
    asked = [["-dumpversion"], ["--print-file-name=picolibc.specs"]]
    version, specs = (
        subprocess.check_output([PREFIX + "g++", *each], text=True).strip() for each in asked
    )
    return int(version.split(".")[0]) >= 12 and os.path.isabs(specs)


def include_folders(compiler, *flags):
    """The folders in which a compiler looks for headers."""
    text = subprocess.run(
        [compiler, *flags, "-E", "-v", os.devnull], capture_output=True, text=True, check=True
    ).stderr
    listed = text.split("#include <...> search starts here:")[1].split("End of search list.")[0]
    return [line.strip() for line in listed.strip().splitlines()]


class Compiler:
    """Makes programs of kernels: images for L1 and their symbols."""

    def __init__(self, ttnn, out):
        self.metal, self.out = ttnn / "tt_metal", out
        # Debian has no C++ library for the target: the host's headers over the target's picolibc.
        library = [each for each in include_folders("c++", "-xc++") if "c++" in each]
        picolibc = include_folders(PREFIX + "gcc", "--specs=picolibc.specs", "-xc")
        self.of_host = [HERE / "core/include", *library, *picolibc]

    def of_metal(self, arch):
        """Folders of tt-metal's device headers."""
        if not arch:
            names = [
                "..",
                ".",
                "hw/inc",
                "hw/inc/internal",
                "hw/inc/internal/tt-1xx",
                "hostdevcommon/api",
                "api",
            ]
        else:
            tt_llk = "wormhole_b0" if arch == "wormhole" else arch
            names = [
                f"hw/inc/internal/tt-1xx/{arch}",
                f"hw/inc/internal/tt-1xx/{arch}/{tt_llk}_defines",
                f"hw/inc/internal/tt-1xx/{arch}/noc",
                f"third_party/tt_llk/tt_llk_{tt_llk}/common/inc",
                f"hw/ckernels/{tt_llk}/metal/common",
                f"hw/ckernels/{tt_llk}/metal/llk_io",
            ]
        return [self.metal / name for name in names]

    def make(self, program):
        arch, core, kernel = program.arch, program.core, program.kernel
        folder = self.out / program.folder()
        folder.mkdir(parents=True, exist_ok=True)
        text = (KERNELS / kernel).read_text()
        for fault, instead in program.faults:
            assert text.count(fault) == 1, f"{kernel} has not one {fault!r}"
            text = text.replace(fault, instead)
        (folder / pathlib.Path(kernel).name).write_text(text)
        name = pathlib.Path(kernel).name
        (folder / "kernel_includes.hpp").write_text(f'#include "{name}"\n')
        defines = arch.defines | {
            "KERNEL_BUILD": 1,
            "TENSIX_FIRMWARE": 1,
            "LOCAL_MEM_EN": 0,
            # Nothing is sent to the dispatcher or to the host.
            **{"DISPATCH_MESSAGE_ADDR": 0, "PCIE_NOC_X": 0, "PCIE_NOC_Y": 3},
            f"COMPILE_FOR_{core.upper()}": 1,
            "PROCESSOR_INDEX": 0 if core == "brisc" else 1,
            "NOC_INDEX": program.noc,
            "NOC_MODE": 0,
            "KERNEL_COMPILE_TIME_ARGS": ",".join(map(str, program.compile_args)),
            "CORE_SOURCE": f'"hw/firmware/src/tt-1xx/{core}k.cc"',
        }
        elf, image = folder / "program.elf", folder / "program.bin"
        folders = [*self.of_host, *self.of_metal(""), *self.of_metal(arch.name)]
        run = [
            PREFIX + "g++",
            f"-march={arch.march}",
            "-mabi=ilp32",
            *("-std=c++17", "-O2", "-ffreestanding", "-fno-exceptions", "-fno-rtti"),
            *("-ffunction-sections", "-fno-tree-loop-distribute-patterns"),
            # tt-metal's attributes of pointers are its own compiler's; its mailboxes lie near 0.
            *("-Wall", "-Wextra", "-Werror", "-Wno-attributes", "-Wno-array-bounds"),
            # Faults leave variables unused.
            *(["-Wno-unused"] if program.faults else []),
            *[f"-D{key}={value}" for key, value in defines.items()],
            *("-nostdinc++", f"-I{folder}", f"-I{KERNELS / 'dataflow'}"),
            *itertools.chain(*(["-isystem", str(each)] for each in folders)),
            str(HERE / "core/start.cpp"),
            *("-nostdlib", "-Wl,--gc-sections"),
            f"-Wl,--defsym=__base={arch.starts[core][1]}",
            f"-T{HERE / 'core/core.ld'}",
            *("-o", str(elf)),
        ]
        result = subprocess.run(run, check=False, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{kernel} for {arch.name}'s {core}:\n{result.stderr[:4000]}")
        subprocess.run([PREFIX + "objcopy", "-Obinary", str(elf), str(image)], check=True)
        listed = subprocess.check_output([PREFIX + "nm", str(elf)], text=True)
        program.image = image.read_bytes()
        program.symbols = {
            words[2]: int(words[0], 16) for words in map(str.split, listed.splitlines())
        }


@dataclasses.dataclass
class Program:
    arch: Arch
    kernel: str
    compile_args: list
    role: tuple
    faults: list = dataclasses.field(default_factory=list)  # texts and what replaces them
    image: bytes = b""
    symbols: dict = dataclasses.field(default_factory=dict)

    @property
    def core(self):
        return self.role[0]

    @property
    def noc(self):
        return self.role[1]

    def folder(self):
        name = pathlib.Path(self.kernel).stem
        words = "-".join(map(str, self.compile_args))
        fault = "-faulty" if self.faults else ""
        return f"{self.arch.name}-{name}-{words}-{self.core}{self.noc}{fault}"


class Tensor:
    """Pages of equal size, one after the other in the banks of the DRAM."""

    def __init__(self, chip, page_bytes, pages, data=None):
        self.chip, self.page_bytes, self.pages = chip, page_bytes, pages
        self.stride = -(-page_bytes // chip.arch.alignment) * chip.arch.alignment
        self.address = chip.take_dram(self.stride * math.ceil(pages / len(chip.arch.banks)))
        data = FILL * page_bytes * pages if data is None else data
        assert len(data) == page_bytes * pages
        for page in range(pages):
            bank, at = self.place(page)
            own = data[page * page_bytes : (page + 1) * page_bytes]
            chip.device.write(bank, at, own, page_bytes)

    def place(self, page):
        banks = self.chip.arch.banks
        bank, *_, first = banks[page % len(banks)]
        return bank, first + self.address + page // len(banks) * self.stride

    def read(self):
        places = (self.place(page) for page in range(self.pages))
        device = self.chip.device
        return b"".join(bytes(device.read(bank, at, self.page_bytes)) for bank, at in places)


class Chip:
    """A device of wolfpine with empty memories."""

    def __init__(self, arch, cores=1):
        self.arch, self.tiles = arch, arch.tiles[:cores]
        self.device = arch.device(tensix_coords=tuple(self.tiles))
        self.device.reset()
        self.dram, self.l1, self.started = 0x10000, FIRST_BUFFER, []

    def take_dram(self, count):
        at, self.dram = self.dram, self.dram + count
        return at

    def take_l1(self, count):
        at, self.l1 = self.l1, self.l1 + -(-count // 64) * 64
        return at

    def write_l1(self, tile, at, data):
        for word in range(0, len(data), 4):
            self.device.write(tile, at + word, data[word : word + 4].ljust(4, b"\0"))

    def buffer(self, page_bytes, pages=1):
        """A circular buffer: its address and sizes."""
        return self.take_l1(page_bytes * pages), page_bytes, pages

    def load(self, program, runtime_args, buffers, core=0):
        """Puts a program, its arguments and circular buffers into the L1 of a tile."""
        tile, symbols = self.tiles[core], program.symbols
        start, base = self.arch.starts[program.core]
        self.write_l1(tile, base, program.image)
        if start != base:
            self.write_l1(tile, start, struct.pack("<I", jump(base - start)))
        shift = self.arch.coordinate_shift
        for noc in range(2):
            places = [bank[1 + noc] for bank in self.arch.banks]
            words = struct.pack(f"<{len(places)}H", *((y << 6 | x) << shift for x, y in places))
            self.write_l1(tile, symbols["dram_bank_to_noc_xy"] + noc * len(words), words)
        firsts = [bank[3] for bank in self.arch.banks]
        self.write_l1(tile, symbols["bank_to_dram_offset"], pack_words(firsts))
        arguments = self.take_l1(4 * len(runtime_args))
        self.write_l1(tile, arguments, pack_words(runtime_args))
        self.write_l1(tile, symbols["rta_l1_base"], pack_words([arguments]))
        for index, (at, page_bytes, pages) in buffers.items():
            size = page_bytes * pages
            words = [size, at + size, page_bytes, pages, at, at, 0, 0]
            self.write_l1(tile, symbols["cb_interface"] + 32 * index, pack_words(words))
        self.started.append((tile, program))

    def run(self, limit=1_000_000):
        """Starts what was loaded and waits until it has ended."""
        for tile, program in self.started:
            self.device.deassert_soft_reset(tile, BabyRISCVCoreType[program.core.upper()])
        for _ in range(0, limit, 1000):
            self.device.run(1000)
            if all(self.progress(*each) == 2 for each in self.started):
                break
        else:
            where = [f"{program.core}: {self.progress(t, program)}" for t, program in self.started]
            raise RuntimeError(f"not at its end after {limit} cycles: {', '.join(where)}")
        self.device.shutdown()

    def progress(self, tile, program):
        at = program.symbols["progress"]
        return int.from_bytes(self.device.read(tile, at, 4), "little")


def jump(distance):
    """The instruction that jumps so far."""
    sign, low, eleventh = distance >> 20 & 1, distance >> 1 & 0x3FF, distance >> 11 & 1
    return sign << 31 | low << 21 | eleventh << 20 | (distance >> 12 & 0xFF) << 12 | 0x6F


def pack_words(words):
    return struct.pack(f"<{len(words)}I", *(word & 0xFFFFFFFF for word in words))
