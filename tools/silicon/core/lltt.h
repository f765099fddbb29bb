// Stands in for SFPI's header of this name: Tensix's buffer of instructions that are repeated.
#pragma once
#include "ckernel_ops.h"

namespace lltt {
enum ExecBool : bool { NoExec = false, Exec = true };

template <ExecBool exec = NoExec>
[[gnu::always_inline]] inline void record(uint32_t start, uint32_t length) {
    ckernel::instrn_buffer[0] = TT_OP_REPLAY(start, length, static_cast<uint32_t>(exec), 1);
}

[[gnu::always_inline]] inline void replay(uint32_t start, uint32_t length) {
    ckernel::instrn_buffer[0] = TT_OP_REPLAY(start, length, 0, 0);
}

constexpr uint32_t replay_insn(uint32_t start, uint32_t length) {
    return TT_OP_REPLAY(start, length, 0, 0);
}
}  // namespace lltt
