// Operands of one column of tiles of a product: all of x, and column `n` of w, in blocks along the
// depth.
//
// In:  x, a row of `depth` tiles; w, `depth` rows of `columns` tiles.
// Out: circular buffers 0 (x) and 1 (w), `block` tiles at a time.
// Compile: 0 depth, 1 columns, 2 block (divides depth), 3 bytes of an x tile, 4 bytes of a w tile,
//          then the accessors of x and w.
// Runtime: 0 x address, 1 w address, 2 n.
#include <cstdint>

#include "api/dataflow/dataflow_api.h"

void kernel_main() {
    const uint32_t depth = get_compile_time_arg_val(0);
    const uint32_t columns = get_compile_time_arg_val(1);
    const uint32_t block = get_compile_time_arg_val(2);
    const uint32_t x_bytes = get_compile_time_arg_val(3);
    const uint32_t w_bytes = get_compile_time_arg_val(4);
    const uint32_t x_address = get_arg_val<uint32_t>(0);
    const uint32_t w_address = get_arg_val<uint32_t>(1);
    const uint32_t n = get_arg_val<uint32_t>(2);
    constexpr uint32_t x_buffer = 0;
    constexpr uint32_t w_buffer = 1;

    constexpr auto x_args = TensorAccessorArgs<5>();
    constexpr auto w_args = TensorAccessorArgs<x_args.next_compile_time_args_offset()>();
    const auto x = TensorAccessor(x_args, x_address, x_bytes);
    const auto w = TensorAccessor(w_args, w_address, w_bytes);
    for (uint32_t k = 0; k < depth; k += block) {
        cb_reserve_back(x_buffer, block);
        cb_reserve_back(w_buffer, block);
        const uint32_t x_l1 = get_write_ptr(x_buffer);
        const uint32_t w_l1 = get_write_ptr(w_buffer);
        for (uint32_t i = 0; i < block; ++i) {
            noc_async_read_page(k + i, x, x_l1 + i * x_bytes);
            noc_async_read_page((k + i) * columns + n, w, w_l1 + i * w_bytes);
        }
        // One barrier for the block: the reads are in flight together.
        noc_async_read_barrier();
        cb_push_back(x_buffer, block);
        cb_push_back(w_buffer, block);
    }
}
