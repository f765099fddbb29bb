// The machine that Tensix kernels run on here: cores with L1, circular buffers and a destination
// register, and DRAM behind a NoC that moves data only at barriers. One fibre for each kernel on
// each core, run in turn until it blocks, so that a run is the same every time and a deadlock is
// seen. What silicon answers with garbage is a Fault here.
#pragma once
#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tt_provider.h"

namespace emulated {

// A tensor in DRAM: pages round the banks from `base`. Byte for byte, whether it has been written.
struct Dram {
    uint32_t base;
    uint32_t page_bytes;
    uint32_t pages;
    uint8_t* data;
    uint8_t* written;
};

// Compile-time words of a tensor's accessor: one in TT-NN 0.66, two in 0.81. Kernels must fit both.
#ifndef TT_ACCESSOR_WORDS
#define TT_ACCESSOR_WORDS 1
#endif
constexpr uint32_t accessor_words = TT_ACCESSOR_WORDS;
// Each of them, for a tensor interleaved over DRAM.
constexpr uint32_t interleaved_dram = 2;

// What differs from chip to chip.
struct Hardware {
    uint32_t banks;
    uint32_t dram_alignment;
    uint32_t l1_bytes;
};

// Number formats and arithmetic, which the Rust side owns.
struct Arithmetic {
    void (*unpack)(uint32_t format, const uint8_t* tile, float* rows);
    void (*pack)(uint32_t format, const float* rows, uint8_t* tile);
    void (*matmul)(const float* in0, const float* in1, float* dest, uint32_t fidelity,
                   uint32_t fp32_dest);
    uint32_t (*tile_bytes)(uint32_t format);
};

struct Fault {
    std::string text;
};

[[noreturn]] void fault(const std::string& text);

enum class Byte : uint8_t { Unwritten, Valid, InFlight };

struct Fiber;

struct CircularBuffer {
    bool exists = false;
    uint32_t format = 0;
    uint32_t page_bytes = 0;
    uint32_t pages = 0;
    uint32_t base = 0;
    uint64_t received = 0;  // pages pushed and popped since the start
    uint64_t acked = 0;
    uint32_t reserved = 0;  // pages the producer may write
    uint32_t waited = 0;    // pages the consumer may read
    uint32_t packed = 0;    // tiles packed since the last push
    Fiber* producer = nullptr;
    Fiber* consumer = nullptr;
};

struct Core {
    uint32_t x = 0;
    uint32_t y = 0;
    uint32_t l1_base = 0;
    std::vector<uint8_t> l1;
    std::vector<Byte> state;
    CircularBuffer buffers[32];

    CircularBuffer& buffer(uint32_t index);
    // The buffer and page of an address, or a fault.
    CircularBuffer& at(uint32_t address, uint32_t bytes, uint32_t& first_page, uint32_t& last_page);
};

struct Transfer {
    uint64_t noc;
    uint32_t l1;
    uint32_t bytes;
};

// The destination register's life: acquired by math, committed, waited for by pack, released.
enum class Dest { Free, Math, Committed, Pack };

struct Fiber {
    Core* core = nullptr;
    const ttp_kernel* kernel = nullptr;
    std::vector<uint32_t> compile_args;
    const uint32_t* runtime_args = nullptr;
    void (*entry)() = nullptr;

    ucontext_t context{};
    std::unique_ptr<uint8_t[]> stack;
    bool done = false;
    std::function<bool()> ready;
    std::string waiting;

    std::vector<Transfer> reads;
    std::vector<Transfer> writes;

    Dest dest_state = Dest::Free;
    std::vector<std::vector<float>> dest;
    std::vector<bool> dest_written;
    bool matmul_ready = false;
    uint32_t matmul_in0 = 0;
    uint32_t matmul_in1 = 0;

    std::string name() const;
};

// The fibre that runs now.
Fiber& self();
void wait_until(std::function<bool()> ready, const std::string& what);

uint32_t compile_arg(uint32_t index);
uint32_t runtime_arg(uint32_t index);

void reserve_back(uint32_t buffer, uint32_t pages);
void push_back(uint32_t buffer, uint32_t pages);
void wait_front(uint32_t buffer, uint32_t pages);
void pop_front(uint32_t buffer, uint32_t pages);
uint32_t write_pointer(uint32_t buffer);
uint32_t read_pointer(uint32_t buffer);

// One element of L1 by its own core's processor.
void load(uint32_t address, void* value, uint32_t bytes);
void store(uint32_t address, const void* value, uint32_t bytes);

uint64_t dram_address(uint32_t base, uint32_t page_bytes, uint32_t page, uint32_t offset);
void read_noc(uint64_t source, uint32_t l1, uint32_t bytes);
void write_noc(uint32_t l1, uint64_t target, uint32_t bytes);
void read_barrier();
void write_barrier();

void matmul_init(uint32_t in0, uint32_t in1, uint32_t out);
void matmul(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dest);
void copy(uint32_t buffer, uint32_t tile, uint32_t dest);
void dest_acquire();
void dest_commit();
void dest_wait();
void dest_release();
void pack(uint32_t dest, uint32_t buffer);

}  // namespace emulated
