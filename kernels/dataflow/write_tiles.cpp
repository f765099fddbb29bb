// Tiles from a circular buffer to pages of a tensor, in runs of consecutive ones.
//
// In:  circular buffer 16. Out: the tensor.
// Compile: 0 bytes of a tile, then the tensor's accessor.
// Runtime: 0 tensor address, 1 first page, 2 pages of a run, 3 runs, 4 pages from the start of one
//          run to that of the next.
#include <cstdint>

#include "api/dataflow/dataflow_api.h"

void kernel_main() {
    const uint32_t tile_bytes = get_compile_time_arg_val(0);
    const uint32_t address = get_arg_val<uint32_t>(0);
    const uint32_t first = get_arg_val<uint32_t>(1);
    const uint32_t count = get_arg_val<uint32_t>(2);
    const uint32_t runs = get_arg_val<uint32_t>(3);
    const uint32_t step = get_arg_val<uint32_t>(4);
    constexpr uint32_t buffer = 16;

    constexpr auto out_args = TensorAccessorArgs<1>();
    const auto out = TensorAccessor(out_args, address, tile_bytes);
    for (uint32_t run = 0; run < runs; ++run) {
        const uint32_t start = first + run * step;
        for (uint32_t page = start; page < start + count; ++page) {
            cb_wait_front(buffer, 1);
            noc_async_write_page(page, out, get_read_ptr(buffer));
            noc_async_write_barrier();
            cb_pop_front(buffer, 1);
        }
    }
}
