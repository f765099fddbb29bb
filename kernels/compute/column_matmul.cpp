// One tile of a product: the sum over the depth of x tile times w tile, accumulated in the
// destination register.
//
// In:  circular buffers 0 (x) and 1 (w), `block` tiles at a time.
// Out: circular buffer 16, one tile.
// Compile: 0 depth, 1 block (divides depth).
#include <cstdint>

#if __has_include("api/compute/matmul.h")  // TT-NN 0.81
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/matmul.h"
#include "api/compute/tile_move_copy.h"

// Gone there: the two steps that it consisted of.
inline void mm_init(uint32_t in0, uint32_t in1, uint32_t out) {
    compute_kernel_hw_startup<SrcOrder::Reverse>(in0, in1, out);
    matmul_init(in0, in1);
}
#else
#include "compute_kernel_api/matmul.h"
#include "compute_kernel_api/tile_move_copy.h"
#endif

void kernel_main() {
    const uint32_t depth = get_compile_time_arg_val(0);
    const uint32_t block = get_compile_time_arg_val(1);
    constexpr uint32_t x_buffer = 0;
    constexpr uint32_t w_buffer = 1;
    constexpr uint32_t out_buffer = 16;

    mm_init(x_buffer, w_buffer, out_buffer);
    tile_regs_acquire();
    for (uint32_t k = 0; k < depth; k += block) {
        cb_wait_front(x_buffer, block);
        cb_wait_front(w_buffer, block);
        for (uint32_t i = 0; i < block; ++i) {
            matmul_tiles(x_buffer, w_buffer, i, i, 0);
        }
        cb_pop_front(x_buffer, block);
        cb_pop_front(w_buffer, block);
    }
    tile_regs_commit();
    tile_regs_wait();
    cb_reserve_back(out_buffer, 1);
    pack_tile(0, out_buffer);
    cb_push_back(out_buffer, 1);
    tile_regs_release();
}
