// The boards of the ABI and what TT-NN's kind of cluster means for them. No type of TT-NN here, so
// that tests/shim_boards.rs can compile it and compare it with src/boards.rs.
#pragma once

#include <cstdint>

#include "tt_provider.h"

namespace shim {

struct Board {
    uint32_t id;
    const char* name;
    uint32_t architecture;
    uint32_t chips;
    // The last chip is wired to the first. Without the ring configuration of the fabric collectives
    // fall back to a line silently.
    bool ring;
    // Ethernet links of a collective between neighbours. One on Wormhole: the other of an N300
    // carries dispatch.
    uint32_t links;
};

constexpr Board boards[] = {
    {TTP_BOARD_N150, "n150", TTP_ARCH_WORMHOLE, 1, false, 0},
    {TTP_BOARD_N300, "n300", TTP_ARCH_WORMHOLE, 2, false, 1},
    {TTP_BOARD_T3K, "t3k", TTP_ARCH_WORMHOLE, 8, true, 1},
    {TTP_BOARD_P150, "p150", TTP_ARCH_BLACKHOLE, 1, false, 0},
    {TTP_BOARD_P300, "p300", TTP_ARCH_BLACKHOLE, 2, false, 2},
    {TTP_BOARD_QUIETBOX, "quietbox", TTP_ARCH_BLACKHOLE, 4, true, 2},
    {TTP_BOARD_LOUDBOX, "loudbox", TTP_ARCH_BLACKHOLE, 8, true, 2},
};

constexpr const Board* find_board(uint32_t id) {
    for (const Board& board : boards) {
        if (board.id == id) {
            return &board;
        }
    }
    return nullptr;
}

// The values of tt::tt_metal::ClusterType, which are part of its stable interface.
constexpr bool dispatches_over_ethernet(uint32_t cluster) {
    // N300, T3K and 2x2 N300, as ttnn's device.py decides, also where only one of the chips is
    // opened: Tensix dispatch would leave 8x7 cores of theirs. An N150 keeps 8x8 cores without it,
    // and Blackhole dispatches over a column of Tensix cores.
    return cluster == 2 || cluster == 3 || cluster == 12;
}

// TTP_ARCH_* of a cluster; 0 where its kind does not say (a custom or unknown one).
constexpr uint32_t architecture_of(uint32_t cluster) {
    switch (cluster) {
        case 1:   // N150
        case 2:   // N300
        case 3:   // T3K
        case 4:   // Galaxy
        case 5:   // TG
        case 10:  // simulated Wormhole
        case 12:  // 2x2 N300
            return TTP_ARCH_WORMHOLE;
        case 6:   // P100
        case 7:   // P150
        case 8:   // two P150
        case 9:   // four P150
        case 11:  // simulated Blackhole
        case 13:  // eight P150
        case 14:  // P300
        case 16:  // Blackhole Galaxy
        case 17:  // two P300
            return TTP_ARCH_BLACKHOLE;
        default:
            return 0;
    }
}

constexpr const char* architecture_name(uint32_t architecture) {
    return architecture == TTP_ARCH_BLACKHOLE ? "Blackhole" : "Wormhole";
}

}  // namespace shim
