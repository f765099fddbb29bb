"""Boards as TT-NN's mock mode takes them: a cluster descriptor each, and how a mesh is opened.

The descriptors hold what UMD discovers on such a board: chips, which of them have a host
connection, Ethernet links by channel, and harvested cores. Serial numbers are made up.
"""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One board or box, opened as a row of its chips."""

    name: str
    arch: str
    board: str
    chips: int
    # Chips with a host connection.
    local: tuple
    # Pairs of (chip, channel).
    ethernet: tuple
    # Groups of chips on one board.
    boards: tuple
    # Tensix rows (Wormhole) or columns (Blackhole) out of use, as a mask for each chip.
    harvested: tuple
    # Ethernet channels out of use.
    ethernet_harvested: int = 0
    ring: bool = False
    # Ethernet links that collectives use.
    links: int = 1


def pair(one, other, channels):
    """Links between two chips, by their channels on either side."""
    return tuple(((one, left), (other, right)) for left, right in channels)


# In a T3000 chips 0 to 3 are the local ones of four N300 boards, 4 to 7 their partners.
T3K_LINKS = (
    pair(0, 2, [(6, 6), (7, 7)])
    + pair(0, 1, [(14, 14), (15, 15)])
    + pair(1, 3, [(0, 0), (1, 1)])
    + pair(2, 3, [(14, 14), (15, 15)])
    + pair(4, 5, [(6, 6), (7, 7)])
    + pair(6, 7, [(6, 6), (7, 7)])
    + tuple(link for chip in range(4) for link in pair(chip, chip + 4, [(8, 0), (9, 1)]))
)
# Four and eight P150, as UMD's examples of such machines (blackhole_4xP150, blackhole_8xP150) have
# them. Their rings: 0, 2, 1, 3; and 0, 1, 5, 4, 6, 7, 3, 2.
QUIETBOX_LINKS = tuple(
    link
    for one, other, first in ((0, 2, 4), (0, 3, 8), (1, 3, 4), (1, 2, 8))
    for link in pair(one, other, [(channel, channel) for channel in range(first, first + 4)])
)
LOUDBOX_LINKS = tuple(
    link
    for one, other, channels in (
        (0, 1, [(4, 9), (6, 11)]),
        (0, 4, [(5, 5), (7, 7)]),
        (0, 2, [(9, 4), (11, 6)]),
        (1, 5, [(4, 4), (6, 6)]),
        (2, 6, [(8, 8), (10, 10)]),
        (2, 3, [(9, 4), (11, 6)]),
        (3, 7, [(9, 9), (11, 11)]),
        (4, 5, [(4, 9), (6, 11)]),
        (4, 6, [(9, 4), (11, 6)]),
        (6, 7, [(9, 4), (11, 6)]),
    )
    for link in pair(one, other, channels)
)
# Bits 36 and up of a board's serial number say what it is.
PRODUCTS = {"n150": 0x18, "n300": 0x14, "p150": 0x41, "p300": 0x45}
# Two of ten rows of a Wormhole chip on N300, one on N150.
TWO_ROWS, ONE_ROW = 0b1100000000, 0b0000100000
# Two of fourteen columns of a Blackhole chip: on P300, and on P150 in UMD's example of eight. The
# QuietBox has them here, the LoudBox has not: so boards.rs counts their cores.
TWO_COLUMNS, LAST_COLUMNS = 0b101, 0b11000000

CLUSTERS = {
    cluster.name: cluster
    for cluster in (
        Cluster("n150", "wormhole_b0", "n150", 1, (0,), (), ((0,),), (ONE_ROW,)),
        Cluster(
            "n300",
            "wormhole_b0",
            "n300",
            2,
            (0,),
            pair(0, 1, [(8, 0), (9, 1)]),
            ((0, 1),),
            (TWO_ROWS,) * 2,
        ),
        Cluster(
            "t3k",
            "wormhole_b0",
            "n300",
            8,
            (0, 1, 2, 3),
            T3K_LINKS,
            ((0, 4), (1, 5), (2, 6), (3, 7)),
            (TWO_ROWS,) * 8,
            ring=True,
        ),
        Cluster(
            "p150",
            "blackhole",
            "p150",
            1,
            (0,),
            (),
            ((0,),),
            (0,),
            ethernet_harvested=288,
            links=2,
        ),
        Cluster(
            "p300",
            "blackhole",
            "p300",
            2,
            (0, 1),
            pair(0, 1, [(2, 9), (3, 8)]),
            ((0, 1),),
            (TWO_COLUMNS,) * 2,
            ethernet_harvested=288,
            links=2,
        ),
        Cluster(
            "quietbox",
            "blackhole",
            "p150",
            4,
            tuple(range(4)),
            QUIETBOX_LINKS,
            tuple((chip,) for chip in range(4)),
            (LAST_COLUMNS,) * 4,
            ethernet_harvested=288,
            ring=True,
            links=2,
        ),
        Cluster(
            "loudbox",
            "blackhole",
            "p150",
            8,
            tuple(range(8)),
            LOUDBOX_LINKS,
            tuple((chip,) for chip in range(8)),
            (0,) * 8,
            ethernet_harvested=288,
            ring=True,
            links=2,
        ),
    )
}


def descriptor(cluster):
    """The cluster descriptor: JSON, which is YAML too."""
    chips = range(cluster.chips)
    board_of = {chip: at for at, board in enumerate(cluster.boards) for chip in board}
    blackhole = cluster.arch == "blackhole"

    def place_on_board(chip):
        """Place of a chip on its board."""
        return cluster.boards[board_of[chip]].index(chip)

    harvesting = {
        chip: {
            "noc_translation": True,
            "harvest_mask": cluster.harvested[chip],
            "dram_harvesting_mask": 0,
            "eth_harvesting_mask": cluster.ethernet_harvested,
            # One of the two PCIe units of a Blackhole chip is in use: the first on the right chip.
            "pcie_harvesting_mask": (2, 1)[place_on_board(chip)] if blackhole else 0,
            "l2cpu_harvesting_mask": 0,
        }
        for chip in chips
    }
    ends = [
        [{"chip": chip, "chan": channel} for chip, channel in link] for link in cluster.ethernet
    ]
    # Wormhole finds its chips by position: board in the first coordinate, chip in the third.
    positions = {chip: [place_on_board(chip), 0, 0, 0] for chip in chips}
    if cluster.chips == 8:
        places = [(1, 0), (1, 1), (2, 0), (2, 1), (0, 0), (0, 1), (3, 0), (3, 1)]
        positions = {chip: [*places[chip], 0, 0] for chip in chips}
    return json.dumps(
        {
            "arch": dict.fromkeys(chips, cluster.arch),
            "chips": {} if blackhole else positions,
            "chip_unique_ids": {chip: 1000 + chip for chip in chips},
            "ethernet_connections": ends,
            "ethernet_connections_to_remote_devices": [],
            "chips_with_mmio": [{chip: at} for at, chip in enumerate(cluster.local)],
            "io_device_type": "PCIe",
            "harvesting": harvesting,
            "chip_to_boardtype": dict.fromkeys(chips, cluster.board),
            "chip_to_bus_id": {chip: f"0x{board_of[chip] + 1:04x}" for chip in chips},
            "boards": [
                [
                    {"board_id": (PRODUCTS[cluster.board] << 36) + at},
                    {"board_type": cluster.board},
                    {"chips": list(board)},
                ]
                for at, board in enumerate(cluster.boards)
            ],
            "asic_locations": {chip: place_on_board(chip) for chip in chips},
        }
    )


def open_mesh(ttnn, cluster, opened):
    """Opens the row of chips as the shim does: fabric first, dispatch by kind of chip."""
    if cluster.chips > 1:
        fabric = ttnn.FabricConfig.FABRIC_1D_RING if cluster.ring else ttnn.FabricConfig.FABRIC_1D
        ttnn.set_fabric_config(
            fabric,
            ttnn.FabricReliabilityMode.STRICT_INIT,
            # A mock cluster has no routers to start.
            fabric_manager_mode=ttnn.FabricManagerMode.ENABLED,
        )
    kind = ttnn.DispatchCoreType
    ethernet = cluster.arch == "wormhole_b0" and cluster.chips > 1
    mesh = ttnn.open_mesh_device(
        mesh_shape=ttnn.MeshShape(1, cluster.chips),
        trace_region_size=opened["trace_region_bytes"],
        num_command_queues=opened["command_queues"],
        dispatch_core_config=ttnn.DispatchCoreConfig(kind.ETH if ethernet else kind.WORKER),
    )
    mesh.enable_program_cache()
    return mesh
