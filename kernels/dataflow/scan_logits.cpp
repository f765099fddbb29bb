// The two largest logits of each core's share of a chip's logits: the first half of an argmax over
// a head that is sharded over the chips.
//
// In:  logits, F32 tiles [1, 1, 1, 32 * n] (row 0 only); shard, U32 [1, 1, 1, 8] row-major, which
//      differs from chip to chip: 0 index of the chip's first logit, 1 number of its logits, behind
//      which there is padding.
// Out: candidates, one F32 tile [1, 1, 32, 32]: 128 places of 8 words, four in a row: 0 largest
//      logit, 1 second largest, 2 index of the largest (the lowest wins ties), 3 number of NaN
//      logits, both as in token.hpp; places are in the order of the logits, and those behind them
//      are empty.
// Buffers: 0 logits of the core, 1 shard, 2 a candidate and an empty place; one page each, scratch.
// Compile: the accessors in the order logits, shard, candidates.
// Runtime: the three addresses in that order, first tile, tiles, place, distance to the next place.
#include <cstdint>

#include "api/dataflow/dataflow_api.h"

#include "../include/l1.hpp"
#include "../include/token.hpp"

void kernel_main() {
    const uint32_t first_tile = get_arg_val<uint32_t>(3);
    const uint32_t tiles = get_arg_val<uint32_t>(4);
    const uint32_t first_place = get_arg_val<uint32_t>(5);
    const uint32_t distance = get_arg_val<uint32_t>(6);
    constexpr auto logits_args = TensorAccessorArgs<0>();
    constexpr auto shard_args = TensorAccessorArgs<logits_args.next_compile_time_args_offset()>();
    constexpr auto out_args = TensorAccessorArgs<shard_args.next_compile_time_args_offset()>();
    const auto logits = TensorAccessor(logits_args, get_arg_val<uint32_t>(0), 4096);
    const auto shard = TensorAccessor(shard_args, get_arg_val<uint32_t>(1), 32);
    const auto candidates = TensorAccessor(out_args, get_arg_val<uint32_t>(2), 4096);

    // Row 0 of a tile is in its first two faces: 64 bytes at 0 and 64 bytes at 1024.
    cb_reserve_back(0, 1);
    cb_reserve_back(1, 1);
    cb_reserve_back(2, 1);
    const uint32_t logits_l1 = get_write_ptr(0);
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        const uint32_t page = first_tile + tile;
        noc_async_read(logits.get_noc_addr(page), logits_l1 + 128 * tile, 64);
        noc_async_read(logits.get_noc_addr(page, 1024), logits_l1 + 128 * tile + 64, 64);
    }
    noc_async_read_page(0, shard, get_write_ptr(1));
    noc_async_read_barrier();

    const L1<uint32_t> values(logits_l1);
    const L1<uint32_t> place(get_write_ptr(1));
    const uint32_t first_index = place.load(0);
    const uint32_t count = place.load(1);
    const uint32_t begin = 32 * first_tile;
    const uint32_t end = begin + 32 * tiles < count ? begin + 32 * tiles : count;
    TopTwo top;
    for (uint32_t i = begin; i < end; ++i) {
        top.add(first_index + i, values.load(i - begin));
    }

    const uint32_t out_l1 = get_write_ptr(2);
    const L1<uint32_t> out(out_l1);
    out.store(0, top.largest);
    out.store(1, top.second);
    out.store(2, integer_code + top.best);
    out.store(3, integer_code + top.nans);
    // An empty place is behind the candidates of its chip, so that it wins no tie.
    out.store(candidate_words, minus_infinity);
    out.store(candidate_words + 1, minus_infinity);
    out.store(candidate_words + 2, integer_code);
    out.store(candidate_words + 3, integer_code);
    for (uint32_t word = 4; word < candidate_words; ++word) {
        out.store(word, 0);
        out.store(candidate_words + word, 0);
    }
    uint32_t from = out_l1;
    for (uint32_t at = first_place; at < candidate_places; at += distance) {
        noc_async_write(from, candidates.get_noc_addr(0, candidate_offset(at)), 32);
        from = out_l1 + 4 * candidate_words;
    }
    noc_async_write_barrier();
}
