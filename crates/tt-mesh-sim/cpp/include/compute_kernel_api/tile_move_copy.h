// See common.h.
#pragma once
#include "compute_kernel_api/common.h"

inline void copy_tile_init(uint32_t) {}
inline void copy_tile(uint32_t buffer, uint32_t tile, uint32_t dest) {
    emulated::copy(buffer, tile, dest);
}
