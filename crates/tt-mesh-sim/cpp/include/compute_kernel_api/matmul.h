// See common.h.
#pragma once
#include "compute_kernel_api/common.h"

inline void mm_init(uint32_t in0, uint32_t in1, uint32_t out) {
    emulated::matmul_init(in0, in1, out);
}
inline void matmul_tiles(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1,
                         uint32_t dest) {
    emulated::matmul(in0, in1, tile0, tile1, dest);
}
