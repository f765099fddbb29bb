// Argmax over a row of action logits: the token's bin and its embedding, without the host.
//
// In:  logits, F32 tiles [1, 1, 1, 32 * tiles] (row 0 only); centres, F32 [1, 1, 1, bins]
//      row-major, the bin centres; table, BF16 [1, 1, vocabulary, width] row-major, the token
//      embeddings.
// Out: row, BF16 tiles [1, 1, 1, width], the embedding of the selected token; result, U32
//      [1, 1, 1, 8] row-major: 0 index of the largest logit (the lowest wins ties), 1 token id,
//      2 bin, 3 bin centre (float32 bits), 4 largest logit, 5 second largest (both float32 bits),
//      6 number of NaN logits, 7 zero. With a NaN the index is 0 and the host must refuse the
//      result.
// Buffers: 0 logits, 1 centres, 2 embedding row, 3 result; one page each, scratch of this kernel.
// Compile: 0 tiles, 1 bins, 2 first action id, 3 end of the vocabulary, 4 width, then the accessors
//          in the order logits, centres, table, row, result.
// Runtime: the five addresses in that order.
#include <cstdint>

#include "api/dataflow/dataflow_api.h"

#include "../include/l1.hpp"
#include "../include/token.hpp"

void kernel_main() {
    const uint32_t tiles = get_compile_time_arg_val(0);
    const uint32_t bins = get_compile_time_arg_val(1);
    const uint32_t first_id = get_compile_time_arg_val(2);
    const uint32_t end_id = get_compile_time_arg_val(3);
    const uint32_t width = get_compile_time_arg_val(4);
    // The number of words of an accessor is TT-NN's affair: one in 0.66, two in 0.81.
    constexpr auto logits_args = TensorAccessorArgs<5>();
    constexpr auto centres_args = TensorAccessorArgs<logits_args.next_compile_time_args_offset()>();
    constexpr auto table_args = TensorAccessorArgs<centres_args.next_compile_time_args_offset()>();
    constexpr auto row_args = TensorAccessorArgs<table_args.next_compile_time_args_offset()>();
    constexpr auto result_args = TensorAccessorArgs<row_args.next_compile_time_args_offset()>();
    const auto logits = TensorAccessor(logits_args, get_arg_val<uint32_t>(0), 4096);
    const auto centres = TensorAccessor(centres_args, get_arg_val<uint32_t>(1), 4 * bins);
    const auto table = TensorAccessor(table_args, get_arg_val<uint32_t>(2), 2 * width);
    const auto row = TensorAccessor(row_args, get_arg_val<uint32_t>(3), 2048);
    const auto result = TensorAccessor(result_args, get_arg_val<uint32_t>(4), 32);

    // Row 0 of a tile is in its first two faces: 64 bytes at 0 and 64 bytes at 1024.
    cb_reserve_back(0, 1);
    cb_reserve_back(1, 1);
    const uint32_t logits_l1 = get_write_ptr(0);
    const uint32_t centres_l1 = get_write_ptr(1);
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        noc_async_read(logits.get_noc_addr(tile), logits_l1 + 128 * tile, 64);
        noc_async_read(logits.get_noc_addr(tile, 1024), logits_l1 + 128 * tile + 64, 64);
    }
    noc_async_read_page(0, centres, centres_l1);
    noc_async_read_barrier();

    const L1<uint32_t> values(logits_l1);
    TopTwo top;
    for (uint32_t i = 0; i < 32 * tiles; ++i) {
        top.add(i, values.load(i));
    }
    write_token(top, centres_l1, bins, first_id, end_id, width, table, row, result);
}
