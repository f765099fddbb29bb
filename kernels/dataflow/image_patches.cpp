// Image bytes to the patch matrix of both vision towers.
//
// In:  image, U8 [1, 1, side, 3 * side] row-major, channels RGB interleaved.
// Out: circular buffer 16, bf16 tiles of the matrix [patches, 3 * patch * patch], columns in the
//      order (channel, y, x) of a convolution's weight, zero beyond its edges. Each value is the
//      byte minus 128: exact in bf16, so that normalisation can be folded into the weights of the
//      matmul that follows.
// Buffers: 0 = rows of the image that one row of tiles needs (written and read here only).
// Compile: 0 side, 1 patch, 2 row stride in buffer 0 (a multiple of the DRAM's alignment), then the
//          image's accessor.
// Runtime: 0 image address, 1 first row of tiles, 2 rows of tiles, 3 distance between them, 4 first
//          column of tiles, 5 columns of tiles.
#include <cstdint>

#include "api/dataflow/dataflow_api.h"

#include "../include/l1.hpp"

// Bits of bf16 for an integer from -128 to 127. The core has no floating-point unit.
inline uint32_t small_integer(int32_t value) {
    if (value == 0) {
        return 0;
    }
    const uint32_t sign = value < 0 ? 0x8000u : 0u;
    uint32_t magnitude = value < 0 ? static_cast<uint32_t>(-value) : static_cast<uint32_t>(value);
    uint32_t exponent = 127 + 7;
    while ((magnitude & 0x80u) == 0) {
        magnitude <<= 1;
        --exponent;
    }
    return sign | (exponent << 7) | (magnitude & 0x7fu);
}

void kernel_main() {
    const uint32_t side = get_compile_time_arg_val(0);
    const uint32_t patch = get_compile_time_arg_val(1);
    const uint32_t stride = get_compile_time_arg_val(2);
    const uint32_t image = get_arg_val<uint32_t>(0);
    const uint32_t first_tile_row = get_arg_val<uint32_t>(1);
    const uint32_t tile_rows = get_arg_val<uint32_t>(2);
    const uint32_t tile_row_step = get_arg_val<uint32_t>(3);
    const uint32_t first_tile = get_arg_val<uint32_t>(4);
    const uint32_t tiles = get_arg_val<uint32_t>(5);
    constexpr uint32_t band_buffer = 0;
    constexpr uint32_t out_buffer = 16;
    constexpr uint32_t no_pixel = 0xffffffffu;

    const uint32_t row_bytes = 3 * side;
    const uint32_t across = side / patch;
    const uint32_t patches = across * across;
    const uint32_t area = patch * patch;
    constexpr auto image_args = TensorAccessorArgs<3>();
    const auto pixels = TensorAccessor(image_args, image, row_bytes);

    for (uint32_t turn = 0; turn < tile_rows; ++turn) {
        // The bands of pixel rows that hold the 32 patches of this row of tiles.
        const uint32_t tile_row = first_tile_row + turn * tile_row_step;
        const uint32_t first_patch = 32 * tile_row;
        const uint32_t end_patch = first_patch + 32 < patches ? first_patch + 32 : patches;
        const uint32_t first_row = first_patch / across * patch;
        const uint32_t rows = ((end_patch - 1) / across + 1) * patch - first_row;
        cb_reserve_back(band_buffer, rows);
        const uint32_t band = get_write_ptr(band_buffer);
        for (uint32_t row = 0; row < rows; ++row) {
            noc_async_read_page(first_row + row, pixels, band + row * stride);
        }
        noc_async_read_barrier();
        const L1<uint8_t> bytes(band);

        for (uint32_t tile = first_tile; tile < first_tile + tiles; ++tile) {
            cb_reserve_back(out_buffer, 1);
            const L1<uint32_t> out(get_write_ptr(out_buffer));
            // Two columns at a time: their position in a patch is computed once for all 32 rows,
            // and stores are words.
            for (uint32_t column = 0; column < 32; column += 2) {
                uint32_t place[2];
                for (uint32_t i = 0; i < 2; ++i) {
                    const uint32_t k = 32 * tile + column + i;
                    const uint32_t within = k % area;
                    const uint32_t offset = within / patch * stride + within % patch * 3 + k / area;
                    place[i] = k < 3 * area ? offset : no_pixel;
                }
                for (uint32_t row = 0; row < 32; ++row) {
                    const uint32_t at = first_patch + row;
                    uint32_t word = 0;
                    if (at < patches) {
                        const uint32_t corner =
                            (at / across * patch - first_row) * stride + at % across * patch * 3;
                        for (uint32_t i = 0; i < 2; ++i) {
                            if (place[i] != no_pixel) {
                                const int32_t value =
                                    static_cast<int32_t>(bytes.load(corner + place[i])) - 128;
                                word |= small_integer(value) << (16 * i);
                            }
                        }
                    }
                    // Faces: top left, top right, bottom left, bottom right, 16 rows of 8 words.
                    const uint32_t face = row / 16 * 2 + column / 16;
                    out.store((face * 16 + row % 16) * 8 + column % 16 / 2, word);
                }
            }
            cb_push_back(out_buffer, 1);
        }
    }
}
