// Access to L1: a plain pointer on the device. On the host (TT_KERNEL_ON_HOST) the emulator defines
// a class of the same name that checks every access.
#pragma once
#include <cstdint>

#ifdef TT_KERNEL_ON_HOST
#include "host_l1.hpp"
#else
template <typename T>
struct L1 {
    volatile tt_l1_ptr T* first;
    explicit L1(uint32_t address) : first(reinterpret_cast<volatile tt_l1_ptr T*>(address)) {}
    T load(uint32_t index) const { return first[index]; }
    void store(uint32_t index, T value) const { first[index] = value; }
};
#endif
