// The token of the largest logit among the candidates of every chip, and its embedding: the second
// half of an argmax over a head that is sharded over the chips.
//
// In:  candidates, F32 tiles [1, 1, 32, 32 * chips], of scan_logits.cpp, in the order of the
//      logits; centres and table as for pick_action.cpp.
// Out: row and result as for pick_action.cpp.
// Buffers: 0 candidates, 1 centres, 2 embedding row, 3 result; one page each, scratch.
// Compile: 0 chips, 1 bins, 2 first id, 3 end of the vocabulary, 4 width, then the accessors in the
//          order candidates, centres, table, row, result.
// Runtime: the five addresses in that order.
#include <cstdint>

#include "api/dataflow/dataflow_api.h"

#include "../include/l1.hpp"
#include "../include/token.hpp"

void kernel_main() {
    const uint32_t chips = get_compile_time_arg_val(0);
    const uint32_t bins = get_compile_time_arg_val(1);
    const uint32_t first_id = get_compile_time_arg_val(2);
    const uint32_t end_id = get_compile_time_arg_val(3);
    const uint32_t width = get_compile_time_arg_val(4);
    constexpr auto candidates_args = TensorAccessorArgs<5>();
    constexpr auto centres_args =
        TensorAccessorArgs<candidates_args.next_compile_time_args_offset()>();
    constexpr auto table_args = TensorAccessorArgs<centres_args.next_compile_time_args_offset()>();
    constexpr auto row_args = TensorAccessorArgs<table_args.next_compile_time_args_offset()>();
    constexpr auto result_args = TensorAccessorArgs<row_args.next_compile_time_args_offset()>();
    const auto candidates = TensorAccessor(candidates_args, get_arg_val<uint32_t>(0), 4096);
    const auto centres = TensorAccessor(centres_args, get_arg_val<uint32_t>(1), 4 * bins);
    const auto table = TensorAccessor(table_args, get_arg_val<uint32_t>(2), 2 * width);
    const auto row = TensorAccessor(row_args, get_arg_val<uint32_t>(3), 2048);
    const auto result = TensorAccessor(result_args, get_arg_val<uint32_t>(4), 32);

    cb_reserve_back(0, 1);
    cb_reserve_back(1, 1);
    const uint32_t candidates_l1 = get_write_ptr(0);
    const uint32_t centres_l1 = get_write_ptr(1);
    for (uint32_t chip = 0; chip < chips; ++chip) {
        noc_async_read_page(chip, candidates, candidates_l1 + 4096 * chip);
    }
    noc_async_read_page(0, centres, centres_l1);
    noc_async_read_barrier();

    const L1<uint32_t> words(candidates_l1);
    TopTwo top;
    for (uint32_t chip = 0; chip < chips; ++chip) {
        for (uint32_t place = 0; place < candidate_places; ++place) {
            const uint32_t at = 1024 * chip + candidate_offset(place) / 4;
            const uint32_t index = words.load(at + 2) - integer_code;
            top.add(index, words.load(at));
            // At most the largest: it does not become the best.
            top.add(index, words.load(at + 1));
            top.nans += words.load(at + 3) - integer_code;
        }
    }
    write_token(top, centres_l1, bins, first_id, end_id, width, table, row, result);
}
