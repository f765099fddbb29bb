// Tiles from a circular buffer to consecutive pages of a tensor.
//
// In:  circular buffer 16. Out: the tensor.
// Compile: 0 bytes of a tile, then the tensor's accessor.
// Runtime: 0 tensor address, 1 first page, 2 number of pages.
#include <cstdint>

#include "api/dataflow/dataflow_api.h"

void kernel_main() {
    const uint32_t tile_bytes = get_compile_time_arg_val(0);
    const uint32_t address = get_arg_val<uint32_t>(0);
    const uint32_t first = get_arg_val<uint32_t>(1);
    const uint32_t count = get_arg_val<uint32_t>(2);
    constexpr uint32_t buffer = 16;

    const auto out = TensorAccessor(TensorAccessorArgs<1>(), address, tile_bytes);
    for (uint32_t page = first; page < first + count; ++page) {
        cb_wait_front(buffer, 1);
        noc_async_write_page(page, out, get_read_ptr(buffer));
        noc_async_write_barrier();
        cb_pop_front(buffer, 1);
    }
}
