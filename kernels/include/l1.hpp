// L1 as our kernels see it: a plain pointer on the device. Where kernels run on the host, the emulator gives a window
// of the same name that checks every access (TT_KERNEL_ON_HOST).
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
