// Our own stand-in for the data movement API that Tensix kernels include under this name: the part
// that the kernels of this repository use.
#pragma once
#include <cstdint>

#include "emulator.hpp"

inline uint32_t get_compile_time_arg_val(uint32_t index) { return emulated::compile_arg(index); }

template <typename T>
T get_arg_val(uint32_t index) {
    static_assert(sizeof(T) == 4, "arguments are words");
    return static_cast<T>(emulated::runtime_arg(index));
}

inline void cb_reserve_back(uint32_t buffer, uint32_t pages) {
    emulated::reserve_back(buffer, pages);
}
inline void cb_push_back(uint32_t buffer, uint32_t pages) { emulated::push_back(buffer, pages); }
inline void cb_wait_front(uint32_t buffer, uint32_t pages) { emulated::wait_front(buffer, pages); }
inline void cb_pop_front(uint32_t buffer, uint32_t pages) { emulated::pop_front(buffer, pages); }
inline uint32_t get_write_ptr(uint32_t buffer) { return emulated::write_pointer(buffer); }
inline uint32_t get_read_ptr(uint32_t buffer) { return emulated::read_pointer(buffer); }

// Compile-time words say how a tensor is laid out; interleaved over DRAM is all there is here.
template <uint32_t Offset>
struct TensorAccessorArgs {
    static constexpr uint32_t next_compile_time_args_offset() {
        return Offset + emulated::accessor_words;
    }
};

struct TensorAccessor {
    uint32_t base;
    uint32_t page_size;
    template <uint32_t Offset>
    TensorAccessor(const TensorAccessorArgs<Offset>&, uint32_t address, uint32_t page_bytes)
        : base(address), page_size(page_bytes) {
        for (uint32_t word = 0; word < emulated::accessor_words; ++word) {
            if (emulated::compile_arg(Offset + word) != emulated::interleaved_dram) {
                emulated::fault("compile-time argument " + std::to_string(Offset + word) +
                                " is not the accessor of an interleaved DRAM tensor");
            }
        }
    }
    uint64_t get_noc_addr(uint32_t page, uint32_t offset = 0) const {
        return emulated::dram_address(base, page_size, page, offset);
    }
};

inline void noc_async_read(uint64_t source, uint32_t l1, uint32_t bytes) {
    emulated::read_noc(source, l1, bytes);
}
inline void noc_async_write(uint32_t l1, uint64_t target, uint32_t bytes) {
    emulated::write_noc(l1, target, bytes);
}
inline void noc_async_read_page(uint32_t page, const TensorAccessor& tensor, uint32_t l1,
                                uint32_t offset = 0) {
    emulated::read_noc(tensor.get_noc_addr(page, offset), l1, tensor.page_size - offset);
}
inline void noc_async_write_page(uint32_t page, const TensorAccessor& tensor, uint32_t l1) {
    emulated::write_noc(l1, tensor.get_noc_addr(page), tensor.page_size);
}
inline void noc_async_read_barrier() { emulated::read_barrier(); }
inline void noc_async_write_barrier() { emulated::write_barrier(); }
// Data has left L1: for us the same moment as its arrival.
inline void noc_async_writes_flushed() { emulated::write_barrier(); }
