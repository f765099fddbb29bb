// Our own stand-in for the compute API: the part that the kernels of this repository use.
#pragma once
#include <cstdint>

#include "emulator.hpp"

inline uint32_t get_compile_time_arg_val(uint32_t index) { return emulated::compile_arg(index); }
inline void cb_reserve_back(uint32_t buffer, uint32_t pages) {
    emulated::reserve_back(buffer, pages);
}
inline void cb_push_back(uint32_t buffer, uint32_t pages) { emulated::push_back(buffer, pages); }
inline void cb_wait_front(uint32_t buffer, uint32_t pages) { emulated::wait_front(buffer, pages); }
inline void cb_pop_front(uint32_t buffer, uint32_t pages) { emulated::pop_front(buffer, pages); }

inline void tile_regs_acquire() { emulated::dest_acquire(); }
inline void tile_regs_commit() { emulated::dest_commit(); }
inline void tile_regs_wait() { emulated::dest_wait(); }
inline void tile_regs_release() { emulated::dest_release(); }
inline void pack_tile(uint32_t dest, uint32_t buffer) { emulated::pack(dest, buffer); }
