// Starts one kernel on a data-movement core without tt-metal's runtime (tools/silicon/kernels.py):
// a stack, the NoC's command buffers, the go message, then the entry of tt-metal's kernels.
// CORE_SOURCE is tt-metal's brisck.cc or ncrisck.cc, which includes the kernel.
#include CORE_SOURCE

// What tt-metal's firmware keeps; the host writes it before the core starts.
#define FROM_HOST [[gnu::used, gnu::section(".host")]]
FROM_HOST CBInterface cb_interface[NUM_CIRCULAR_BUFFERS] = {};
FROM_HOST uint32_t tt_l1_ptr* rta_l1_base = nullptr;
FROM_HOST uint32_t tt_l1_ptr* crta_l1_base = nullptr;
FROM_HOST uint32_t tt_l1_ptr* sem_l1_base[ProgrammableCoreType::COUNT] = {};
FROM_HOST uint16_t dram_bank_to_noc_xy[NUM_NOCS][NUM_DRAM_BANKS] = {};
FROM_HOST int32_t bank_to_dram_offset[NUM_DRAM_BANKS] = {};
FROM_HOST uint16_t l1_bank_to_noc_xy[NUM_NOCS][NUM_L1_BANKS] = {};
FROM_HOST int32_t bank_to_l1_offset[NUM_L1_BANKS] = {};
FROM_HOST uint8_t my_x[NUM_NOCS] = {};
FROM_HOST uint8_t my_y[NUM_NOCS] = {};
#ifdef COMPILE_FOR_BRISC  // ncrisck.cc has its own
FROM_HOST uint32_t noc_reads_num_issued[NUM_NOCS] = {};
FROM_HOST uint32_t noc_nonposted_writes_num_issued[NUM_NOCS] = {};
FROM_HOST uint32_t noc_nonposted_writes_acked[NUM_NOCS] = {};
FROM_HOST uint32_t noc_nonposted_atomics_acked[NUM_NOCS] = {};
FROM_HOST uint32_t noc_posted_writes_num_issued[NUM_NOCS] = {};
#endif

// 0 before the core starts, 1 while the kernel runs, 2 behind it. C linkage: the host finds it.
extern "C" {
FROM_HOST volatile uint32_t progress = 0;
}

extern "C" void wzerorange(uint32_t* start, uint32_t* end) {
    for (volatile uint32_t* at = start; at < end; ++at) {
        *at = 0;
    }
}

void l1_to_local_mem_copy(uint32_t* to, uint32_t tt_l1_ptr* from, int32_t count) {
    for (int32_t at = 0; at < count; ++at) {
        static_cast<volatile uint32_t*>(to)[at] = from[at];
    }
}

extern "C" [[gnu::used]] void run() {
    auto* mailboxes = reinterpret_cast<tt_l1_ptr mailboxes_t*>(MEM_MAILBOX_BASE);
    progress = 1;
    noc_init(MEM_NOC_ATOMIC_RET_VAL_ADDR);
    mailboxes->go_message_index = 0;
    mailboxes->go_messages[0].signal = RUN_MSG_GO;
#if defined(COMPILE_FOR_NCRISC) && defined(ARCH_WORMHOLE)
    kernel_launch(0);
#else
    _start();
#endif
    progress = 2;
    while (true) {
    }
}

// Absolute addresses: wolfpine 2.2 raises an exception for an `auipc` that leads back.
extern "C" [[gnu::naked, gnu::used, gnu::section(".entry")]] void entry() {
    asm volatile(
        ".option push\n\t"
        ".option norelax\n\t"
        "lui gp, %hi(__global_pointer$)\n\t"
        "addi gp, gp, %lo(__global_pointer$)\n\t"
        ".option pop\n\t"
        "lui sp, %hi(__stack_top)\n\t"
        "addi sp, sp, %lo(__stack_top)\n\t"
        "j run");
}
