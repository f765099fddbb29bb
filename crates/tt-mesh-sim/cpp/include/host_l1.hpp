// L1 with every access checked: within a circular buffer, in a page that this kernel has reserved
// or waited for, and loaded only after it was written.
#pragma once
#include "emulator.hpp"

template <typename T>
struct L1 {
    uint32_t first;
    explicit L1(uint32_t address) : first(address) {}
    T load(uint32_t index) const {
        T value;
        emulated::load(first + index * static_cast<uint32_t>(sizeof(T)), &value, sizeof(T));
        return value;
    }
    void store(uint32_t index, T value) const {
        emulated::store(first + index * static_cast<uint32_t>(sizeof(T)), &value, sizeof(T));
    }
};
