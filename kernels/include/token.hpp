// The two largest logits, and what a selected token leaves behind. Needs the data movement API and
// l1.hpp before it.
#pragma once
#include <cstdint>

// Internal linkage: on the host all kernels, and copies of them with faults, are one program.
namespace {

// Maps float32 bit patterns to integers in the order of their values; both zeros are equal. The
// core has no floating-point unit.
inline uint32_t sortable(uint32_t bits) {
    if (bits == 0x80000000u) {
        bits = 0;
    }
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

constexpr uint32_t minus_infinity = 0xff800000u;

// The two largest of the values that are added in the order of their indices: the lowest index wins
// ties.
struct TopTwo {
    uint32_t best = 0;                  // index of the largest
    uint32_t largest = minus_infinity;  // float32 bits, as the second largest
    uint32_t second = minus_infinity;
    uint32_t best_key = 0;
    uint32_t second_key = 0;
    uint32_t nans = 0;

    void add(uint32_t index, uint32_t bits) {
        if ((bits & 0x7fffffffu) > 0x7f800000u) {
            ++nans;
            return;
        }
        const uint32_t key = sortable(bits);
        if (key > best_key) {
            second = largest;
            second_key = best_key;
            best = index;
            largest = bits;
            best_key = key;
        } else if (key > second_key) {
            second = bits;
            second_key = key;
        }
    }
};

// Words of a candidate: what one core finds among its logits.
constexpr uint32_t candidate_words = 8;
// Candidates in a tile.
constexpr uint32_t candidate_places = 128;
// 2^23 + n is a normal float32 for every n below 2^23, which copies by any route keep: how a
// candidate holds integers.
constexpr uint32_t integer_code = 0x4b000000u;

// Place of a candidate in a tile: four in a row, in the tile's four faces.
inline uint32_t candidate_offset(uint32_t place) {
    const uint32_t row = place / 4;
    const uint32_t column = place % 4 * candidate_words;
    const uint32_t face = row / 16 * 2 + column / 16;
    return face * 1024 + row % 16 * 64 + column % 16 * 4;
}

// Writes the token's embedding and its words. Buffers: 2 embedding row, 3 result, a page each.
template <typename Table, typename Row, typename Result>
void write_token(const TopTwo& top, uint32_t centres_l1, uint32_t bins, uint32_t first_id,
                 uint32_t end_id, uint32_t width, const Table& table, const Row& row,
                 const Result& result) {
    const uint32_t best = top.nans != 0 ? 0 : top.best;
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
    out.store(4, top.largest);
    out.store(5, top.second);
    out.store(6, top.nans);
    out.store(7, 0);
    noc_async_write_page(0, result, get_write_ptr(3));
    noc_async_write_barrier();
}

}  // namespace
