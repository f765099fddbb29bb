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

// Maps float32 bit patterns to integers in the order of their values; both zeros are equal. The
// core has no floating-point unit.
inline uint32_t sortable(uint32_t bits) {
    if (bits == 0x80000000u) {
        bits = 0;
    }
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

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
    uint32_t best = 0;
    uint32_t second = 0;
    uint32_t nans = 0;
    uint32_t second_key = 0;
    uint32_t best_key = 0;
    for (uint32_t i = 0; i < 32 * tiles; ++i) {
        const uint32_t bits = values.load(i);
        if ((bits & 0x7fffffffu) > 0x7f800000u) {
            ++nans;
            continue;
        }
        const uint32_t key = sortable(bits);
        if (key > best_key) {
            second = best;
            second_key = best_key;
            best = i;
            best_key = key;
        } else if (key > second_key) {
            second = i;
            second_key = key;
        }
    }
    if (nans != 0) {
        best = 0;
        second = 0;
    }
    const uint32_t id = first_id + best;
    // Ids past the end stand for no action; as in the official code they map to bin 0.
    const uint32_t from_top = id < end_id ? end_id - id - 1 : 0;
    const uint32_t bin = from_top < bins ? from_top : bins - 1;

    cb_reserve_back(2, 1);
    const uint32_t row_l1 = get_write_ptr(2);
    noc_async_read_page(id, table, row_l1);
    noc_async_read_barrier();
    // 32 elements a tile, 16 in each of the two upper faces.
    for (uint32_t tile = 0; tile < width / 32; ++tile) {
        noc_async_write(row_l1 + 64 * tile, row.get_noc_addr(tile), 32);
        noc_async_write(row_l1 + 64 * tile + 32, row.get_noc_addr(tile, 512), 32);
    }

    cb_reserve_back(3, 1);
    const L1<uint32_t> out(get_write_ptr(3));
    const L1<uint32_t> centre(centres_l1);
    out.store(0, best);
    out.store(1, id);
    out.store(2, bin);
    out.store(3, centre.load(bin));
    out.store(4, values.load(best));
    out.store(5, values.load(second));
    out.store(6, nans);
    out.store(7, 0);
    noc_async_write_page(0, result, get_write_ptr(3));
    noc_async_write_barrier();
}
