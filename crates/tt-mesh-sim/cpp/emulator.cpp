#include "emulator.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulated {

namespace {

constexpr uint32_t l1_reserved =
    102400;  // firmware, kernels and mailboxes lie below the circular buffers
constexpr size_t stack_bytes = 128 * 1024;
constexpr uint32_t tile_elements = 1024;

struct Machine {
    const Arithmetic* arithmetic = nullptr;
    Hardware hardware{};
    const Dram* tensors = nullptr;
    uint32_t tensor_count = 0;
    std::map<std::pair<uint32_t, uint32_t>, std::unique_ptr<Core>> cores;
    std::vector<std::unique_ptr<Fiber>> fibers;
    ucontext_t scheduler{};
    Fiber* running = nullptr;
    std::string failure;
    // The program has failed: kernels that still wait are unwound, so that what their stacks hold
    // is freed.
    bool abandoned = false;
    // The scheduler's own stack, which is announced to AddressSanitizer at every switch.
    const void* stack_bottom = nullptr;
    size_t stack_size = 0;
};

thread_local Machine* machine = nullptr;

// Ends a kernel that waits for what will not come any more.
struct Abandoned {};

uint32_t align(uint32_t value, uint32_t to) { return (value + to - 1) / to * to; }

std::string hex(uint64_t value) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

// Bank in the upper half, address in the lower.
uint32_t bank_of(uint64_t noc) { return static_cast<uint32_t>(noc >> 32); }
uint32_t offset_of(uint64_t noc) { return static_cast<uint32_t>(noc); }

// The bytes of DRAM behind an address: within one page of one tensor.
size_t resolve(uint64_t noc, uint32_t bytes, const Dram*& tensor) {
    for (uint32_t i = 0; i < machine->tensor_count; ++i) {
        const Dram& dram = machine->tensors[i];
        const uint32_t banks = machine->hardware.banks;
        const uint32_t stride = align(dram.page_bytes, machine->hardware.dram_alignment);
        const uint32_t per_bank = (dram.pages + banks - 1) / banks * stride;
        const uint32_t offset = offset_of(noc);
        if (offset < dram.base || offset >= dram.base + per_bank) {
            continue;
        }
        const uint32_t within = (offset - dram.base) % stride;
        const uint64_t page =
            static_cast<uint64_t>((offset - dram.base) / stride) * banks + bank_of(noc);
        if (page >= dram.pages) {
            fault("page " + std::to_string(page) + " is beyond the tensor's " +
                  std::to_string(dram.pages));
        }
        if (within + bytes > dram.page_bytes) {
            fault(std::to_string(bytes) + " bytes from byte " + std::to_string(within) +
                  " leave a page of " + std::to_string(dram.page_bytes));
        }
        tensor = &dram;
        return static_cast<size_t>(page) * dram.page_bytes + within;
    }
    fault("bank " + std::to_string(bank_of(noc)) + " address " + hex(offset_of(noc)) +
          " is in none of the program's tensors");
}

bool in_window(uint64_t start, uint32_t count, uint32_t pages, uint32_t page) {
    return (page + pages - static_cast<uint32_t>(start % pages)) % pages < count;
}

enum class Access { Load, Store };

// Whether the running kernel may touch these bytes of its core's L1.
void check_window(uint32_t address, uint32_t bytes, Access access) {
    Fiber& fiber = self();
    uint32_t first = 0;
    uint32_t last = 0;
    CircularBuffer& buffer = fiber.core->at(address, bytes, first, last);
    for (uint32_t page = first; page <= last; ++page) {
        const bool produces = buffer.producer == &fiber &&
                              in_window(buffer.received, buffer.reserved, buffer.pages, page);
        const bool consumes =
            buffer.consumer == &fiber && in_window(buffer.acked, buffer.waited, buffer.pages, page);
        if (!(produces || (consumes && access == Access::Load))) {
            const auto number = std::to_string(&buffer - fiber.core->buffers);
            fault(std::string(access == Access::Load ? "reads" : "writes") + " page " +
                  std::to_string(page) + " of circular buffer " + number + ", which it has not " +
                  (access == Access::Load ? "waited for" : "reserved"));
        }
    }
}

Byte* state_at(Core& core, uint32_t address) {
    return core.state.data() + (address - core.l1_base);
}
uint8_t* bytes_at(Core& core, uint32_t address) {
    return core.l1.data() + (address - core.l1_base);
}

void require_valid(Core& core, uint32_t address, uint32_t bytes, const std::string& who) {
    for (const Byte* state = state_at(core, address); state != state_at(core, address) + bytes;
         ++state) {
        if (*state == Byte::InFlight) {
            fault(who +
                  " L1 that a NoC read has not reached yet: noc_async_read_barrier is missing");
        }
        if (*state == Byte::Unwritten) {
            fault(who + " L1 that nothing has written");
        }
    }
}

void switch_to_scheduler() {
    Fiber* fiber = machine->running;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, machine->stack_bottom, machine->stack_size);
    swapcontext(&fiber->context, &machine->scheduler);
    __sanitizer_finish_switch_fiber(fake, &machine->stack_bottom, &machine->stack_size);
#else
    swapcontext(&fiber->context, &machine->scheduler);
#endif
}

void finish(Fiber& fiber) {
    if (!fiber.reads.empty()) {
        fault("ends with " + std::to_string(fiber.reads.size()) +
              " NoC reads in flight: noc_async_read_barrier is missing");
    }
    if (!fiber.writes.empty()) {
        fault("ends with " + std::to_string(fiber.writes.size()) +
              " NoC writes in flight: noc_async_write_barrier is missing");
    }
    if (fiber.dest_state != Dest::Free) {
        fault("ends without releasing the destination register");
    }
}

void enter() {
    Fiber& fiber = *machine->running;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &machine->stack_bottom, &machine->stack_size);
#endif
    try {
        if (!machine->abandoned) {
            fiber.entry();
            finish(fiber);
        }
    } catch (const Abandoned&) {
        // Its failure is another kernel's.
    } catch (const Fault& found) {
        machine->failure = fiber.name() + " " + found.text;
    } catch (const std::exception& found) {
        machine->failure = fiber.name() + ": " + found.what();
    }
    fiber.done = true;
    for (;;) {
        switch_to_scheduler();
    }
}

void prepare(Fiber& fiber) {
    fiber.stack = std::make_unique_for_overwrite<uint8_t[]>(stack_bytes);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
}

void resume(Fiber& fiber) {
    machine->running = &fiber;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), stack_bytes);
    swapcontext(&machine->scheduler, &fiber.context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    swapcontext(&machine->scheduler, &fiber.context);
#endif
    machine->running = nullptr;
}

void schedule() {
    for (;;) {
        bool all_done = true;
        bool progress = false;
        for (auto& fiber : machine->fibers) {
            if (fiber->done) {
                continue;
            }
            all_done = false;
            if (fiber->ready && !fiber->ready()) {
                continue;
            }
            fiber->ready = nullptr;
            progress = true;
            resume(*fiber);
            if (!machine->failure.empty()) {
                return;
            }
        }
        if (all_done) {
            return;
        }
        if (!progress) {
            machine->failure = "deadlock:";
            for (auto& fiber : machine->fibers) {
                if (!fiber->done) {
                    machine->failure += " " + fiber->name() + " waits for " + fiber->waiting + ";";
                }
            }
            return;
        }
    }
}

void unwind_waiting() {
    machine->abandoned = true;
    for (auto& fiber : machine->fibers) {
        if (!fiber->done) {
            resume(*fiber);
        }
    }
}

void lay_out_buffers(const ttp_program& program) {
    const uint32_t l1_bytes = machine->hardware.l1_bytes;
    for (uint32_t i = 0; i < program.buffer_count; ++i) {
        const ttp_circular_buffer& wanted = program.buffers[i];
        if (wanted.index >= 32 || wanted.pages == 0 || wanted.page_bytes == 0) {
            fault("circular buffer " + std::to_string(wanted.index) + " is empty or not one of 32");
        }
        for (auto& [place, core] : machine->cores) {
            const auto& range = wanted.cores;
            if (place.first < range.x0 || place.first > range.x1 || place.second < range.y0 ||
                place.second > range.y1) {
                continue;
            }
            CircularBuffer& buffer = core->buffers[wanted.index];
            if (buffer.exists) {
                fault("circular buffer " + std::to_string(wanted.index) + " is declared twice");
            }
            const uint64_t size = static_cast<uint64_t>(wanted.page_bytes) * wanted.pages;
            const uint64_t end =
                l1_reserved + core->l1.size() +
                align(static_cast<uint32_t>(std::min<uint64_t>(size, l1_bytes)),
                      machine->hardware.dram_alignment);
            if (size > l1_bytes || end > l1_bytes) {
                fault("circular buffers need " + std::to_string(end) + " B of L1, a core has " +
                      std::to_string(l1_bytes));
            }
            buffer.exists = true;
            buffer.format = wanted.format;
            buffer.page_bytes = wanted.page_bytes;
            buffer.pages = wanted.pages;
            buffer.base = l1_reserved + static_cast<uint32_t>(core->l1.size());
            core->l1_base = l1_reserved;
            core->l1.resize(end - l1_reserved);
            core->state.resize(end - l1_reserved, Byte::Unwritten);
        }
    }
}

}  // namespace

void fault(const std::string& text) { throw Fault{text}; }

Fiber& self() { return *machine->running; }

std::string Fiber::name() const {
    return std::string("kernel ") + kernel->name + " on core (" + std::to_string(core->x) + ", " +
           std::to_string(core->y) + ")";
}

CircularBuffer& Core::buffer(uint32_t index) {
    if (index >= 32 || !buffers[index].exists) {
        fault("circular buffer " + std::to_string(index) + " does not exist on this core");
    }
    return buffers[index];
}

CircularBuffer& Core::at(uint32_t address, uint32_t bytes, uint32_t& first_page,
                         uint32_t& last_page) {
    for (auto& buffer : buffers) {
        if (!buffer.exists || address < buffer.base ||
            address >= buffer.base + buffer.pages * buffer.page_bytes) {
            continue;
        }
        if (bytes == 0 || bytes > buffer.pages * buffer.page_bytes - (address - buffer.base)) {
            fault(std::to_string(bytes) + " bytes at L1 address " + hex(address) +
                  " run past the end of a circular buffer");
        }
        first_page = (address - buffer.base) / buffer.page_bytes;
        last_page = (address - buffer.base + bytes - 1) / buffer.page_bytes;
        return buffer;
    }
    fault("L1 address " + hex(address) + " is in no circular buffer");
}

void wait_until(std::function<bool()> ready, const std::string& what) {
    if (ready()) {
        return;
    }
    self().ready = std::move(ready);
    self().waiting = what;
    switch_to_scheduler();
    if (machine->abandoned) {
        throw Abandoned{};
    }
}

uint32_t compile_arg(uint32_t index) {
    if (index >= self().compile_args.size()) {
        fault("has no compile-time argument " + std::to_string(index));
    }
    return self().compile_args[index];
}

uint32_t runtime_arg(uint32_t index) {
    if (index >= self().kernel->runtime_arg_count) {
        fault("has no runtime argument " + std::to_string(index));
    }
    return self().runtime_args[index];
}

void reserve_back(uint32_t index, uint32_t pages) {
    CircularBuffer& buffer = self().core->buffer(index);
    const std::string which = "circular buffer " + std::to_string(index);
    if (buffer.producer != nullptr && buffer.producer != &self()) {
        fault("reserves " + which + ", which another kernel fills");
    }
    buffer.producer = &self();
    if (pages > buffer.pages) {
        fault("reserves " + std::to_string(pages) + " pages of " + which + ", which has " +
              std::to_string(buffer.pages));
    }
    if (buffer.received % buffer.pages + pages > buffer.pages) {
        fault("reserves " + std::to_string(pages) + " pages of " + which +
              " across the end of its ring: page counts must divide it");
    }
    wait_until(
        [&buffer, pages] { return buffer.pages - (buffer.received - buffer.acked) >= pages; },
        std::to_string(pages) + " free pages of " + which);
    buffer.reserved = std::max(buffer.reserved, pages);
}

void push_back(uint32_t index, uint32_t pages) {
    CircularBuffer& buffer = self().core->buffer(index);
    const std::string which = "circular buffer " + std::to_string(index);
    if (buffer.producer != &self() || pages > buffer.reserved) {
        fault("pushes " + std::to_string(pages) + " pages of " + which + " but reserved " +
              std::to_string(buffer.producer == &self() ? buffer.reserved : 0));
    }
    const uint32_t start =
        buffer.base + static_cast<uint32_t>(buffer.received % buffer.pages) * buffer.page_bytes;
    const Byte* state = state_at(*self().core, start);
    if (std::find(state, state + pages * buffer.page_bytes, Byte::InFlight) !=
        state + pages * buffer.page_bytes) {
        fault("pushes " + which +
              " while a NoC read into it is in flight: noc_async_read_barrier is missing");
    }
    buffer.reserved -= pages;
    buffer.received += pages;
    buffer.packed = 0;
}

void wait_front(uint32_t index, uint32_t pages) {
    CircularBuffer& buffer = self().core->buffer(index);
    const std::string which = "circular buffer " + std::to_string(index);
    if (buffer.consumer != nullptr && buffer.consumer != &self()) {
        fault("waits for " + which + ", which another kernel drains");
    }
    buffer.consumer = &self();
    if (pages > buffer.pages) {
        fault("waits for " + std::to_string(pages) + " pages of " + which + ", which has " +
              std::to_string(buffer.pages));
    }
    if (buffer.acked % buffer.pages + pages > buffer.pages) {
        fault("waits for " + std::to_string(pages) + " pages of " + which +
              " across the end of its ring: page counts must divide it");
    }
    wait_until([&buffer, pages] { return buffer.received - buffer.acked >= pages; },
               std::to_string(pages) + " full pages of " + which);
    // Cumulative: waiting does not consume.
    buffer.waited = std::max(buffer.waited, pages);
}

void pop_front(uint32_t index, uint32_t pages) {
    CircularBuffer& buffer = self().core->buffer(index);
    const std::string which = "circular buffer " + std::to_string(index);
    if (buffer.consumer != &self() || pages > buffer.waited) {
        fault("pops " + std::to_string(pages) + " pages of " + which + " but waited for " +
              std::to_string(buffer.consumer == &self() ? buffer.waited : 0));
    }
    const uint32_t start =
        buffer.base + static_cast<uint32_t>(buffer.acked % buffer.pages) * buffer.page_bytes;
    const uint32_t bytes = pages * buffer.page_bytes;
    for (const Transfer& write : self().writes) {
        if (write.l1 < start + bytes && start < write.l1 + write.bytes) {
            fault("gives back a page of " + which +
                  " while a NoC write from it is in flight: noc_async_write_barrier is missing");
        }
    }
    // What was popped is anyone's: it must be written again before it is read.
    std::fill_n(state_at(*self().core, start), bytes, Byte::Unwritten);
    buffer.waited -= pages;
    buffer.acked += pages;
}

uint32_t write_pointer(uint32_t index) {
    CircularBuffer& buffer = self().core->buffer(index);
    return buffer.base + static_cast<uint32_t>(buffer.received % buffer.pages) * buffer.page_bytes;
}

uint32_t read_pointer(uint32_t index) {
    CircularBuffer& buffer = self().core->buffer(index);
    return buffer.base + static_cast<uint32_t>(buffer.acked % buffer.pages) * buffer.page_bytes;
}

void load(uint32_t address, void* value, uint32_t bytes) {
    if (address % bytes != 0) {
        fault("loads " + std::to_string(bytes) + " bytes at the odd L1 address " + hex(address));
    }
    check_window(address, bytes, Access::Load);
    require_valid(*self().core, address, bytes, "loads from");
    std::memcpy(value, bytes_at(*self().core, address), bytes);
}

void store(uint32_t address, const void* value, uint32_t bytes) {
    if (address % bytes != 0) {
        fault("stores " + std::to_string(bytes) + " bytes at the odd L1 address " + hex(address));
    }
    check_window(address, bytes, Access::Store);
    std::memcpy(bytes_at(*self().core, address), value, bytes);
    std::fill_n(state_at(*self().core, address), bytes, Byte::Valid);
}

uint64_t dram_address(uint32_t base, uint32_t page_bytes, uint32_t page, uint32_t offset) {
    const uint32_t banks = machine->hardware.banks;
    const uint32_t stride = align(page_bytes, machine->hardware.dram_alignment);
    return static_cast<uint64_t>(page % banks) << 32 | (base + page / banks * stride + offset);
}

void read_noc(uint64_t source, uint32_t l1, uint32_t bytes) {
    const Dram* tensor = nullptr;
    const size_t at = resolve(source, bytes, tensor);
    const uint32_t alignment = machine->hardware.dram_alignment;
    if (offset_of(source) % alignment != l1 % alignment) {
        fault("reads DRAM address " + hex(offset_of(source)) + " to L1 address " + hex(l1) +
              ": they must agree modulo " + std::to_string(alignment));
    }
    if (std::find(tensor->written + at, tensor->written + at + bytes, 0) !=
        tensor->written + at + bytes) {
        fault("reads DRAM that nothing has written");
    }
    check_window(l1, bytes, Access::Store);
    std::fill_n(state_at(*self().core, l1), bytes, Byte::InFlight);
    self().reads.push_back({source, l1, bytes});
}

void write_noc(uint32_t l1, uint64_t target, uint32_t bytes) {
    const Dram* tensor = nullptr;
    resolve(target, bytes, tensor);
    if (offset_of(target) % 16 != l1 % 16) {
        fault("writes L1 address " + hex(l1) + " to DRAM address " + hex(offset_of(target)) +
              ": they must agree modulo 16");
    }
    check_window(l1, bytes, Access::Load);
    require_valid(*self().core, l1, bytes, "writes to DRAM from");
    self().writes.push_back({target, l1, bytes});
}

void read_barrier() {
    for (const Transfer& read : self().reads) {
        const Dram* tensor = nullptr;
        const size_t at = resolve(read.noc, read.bytes, tensor);
        std::memcpy(bytes_at(*self().core, read.l1), tensor->data + at, read.bytes);
        std::fill_n(state_at(*self().core, read.l1), read.bytes, Byte::Valid);
    }
    self().reads.clear();
}

void write_barrier() {
    for (const Transfer& write : self().writes) {
        const Dram* tensor = nullptr;
        const size_t at = resolve(write.noc, write.bytes, tensor);
        std::memcpy(tensor->data + at, bytes_at(*self().core, write.l1), write.bytes);
        std::fill_n(tensor->written + at, write.bytes, uint8_t{1});
    }
    self().writes.clear();
}

namespace {

// A tile of a circular buffer that the compute kernel has waited for, as rows.
void unpack(uint32_t index, uint32_t tile, float* rows) {
    CircularBuffer& buffer = self().core->buffer(index);
    const uint32_t bytes = machine->arithmetic->tile_bytes(buffer.format);
    if (buffer.page_bytes != bytes) {
        fault("unpacks circular buffer " + std::to_string(index) + ", whose pages of " +
              std::to_string(buffer.page_bytes) + " B are not tiles of " + std::to_string(bytes) +
              " B");
    }
    const uint32_t address = read_pointer(index) + tile * bytes;
    check_window(address, bytes, Access::Load);
    require_valid(*self().core, address, bytes, "unpacks");
    machine->arithmetic->unpack(buffer.format, bytes_at(*self().core, address), rows);
}

std::vector<float>& dest_tile(uint32_t index) {
    Fiber& fiber = self();
    if (fiber.dest_state != Dest::Math) {
        fault("writes the destination register without tile_regs_acquire");
    }
    if (index >= fiber.dest.size()) {
        fault("uses tile " + std::to_string(index) + " of the destination register, which holds " +
              std::to_string(fiber.dest.size()));
    }
    fiber.dest_written[index] = true;
    return fiber.dest[index];
}

}  // namespace

void matmul_init(uint32_t in0, uint32_t in1, uint32_t out) {
    Fiber& fiber = self();
    fiber.core->buffer(in0);
    fiber.core->buffer(in1);
    fiber.core->buffer(out);
    fiber.matmul_ready = true;
    fiber.matmul_in0 = in0;
    fiber.matmul_in1 = in1;
}

void matmul(uint32_t in0, uint32_t in1, uint32_t tile0, uint32_t tile1, uint32_t dest) {
    Fiber& fiber = self();
    if (!fiber.matmul_ready || fiber.matmul_in0 != in0 || fiber.matmul_in1 != in1) {
        fault("multiplies circular buffers " + std::to_string(in0) + " and " + std::to_string(in1) +
              " without mm_init for them");
    }
    float a[tile_elements];
    float b[tile_elements];
    unpack(in0, tile0, a);
    unpack(in1, tile1, b);
    machine->arithmetic->matmul(a, b, dest_tile(dest).data(), fiber.kernel->compute.fidelity,
                                fiber.kernel->compute.fp32_dest);
}

void copy(uint32_t buffer, uint32_t tile, uint32_t dest) {
    float rows[tile_elements];
    unpack(buffer, tile, rows);
    std::copy(rows, rows + tile_elements, dest_tile(dest).begin());
}

void dest_acquire() {
    Fiber& fiber = self();
    if (fiber.dest_state != Dest::Free) {
        fault("acquires the destination register twice");
    }
    // Half of it at a time: the other half is the packer's.
    const size_t tiles = fiber.kernel->compute.fp32_dest != 0 ? 4 : 8;
    fiber.dest.assign(tiles, std::vector<float>(tile_elements, 0.0f));
    fiber.dest_written.assign(tiles, false);
    fiber.dest_state = Dest::Math;
}

void dest_commit() {
    if (self().dest_state != Dest::Math) {
        fault("commits a destination register that it has not acquired");
    }
    self().dest_state = Dest::Committed;
}

void dest_wait() {
    if (self().dest_state != Dest::Committed) {
        fault("waits for a destination register that was not committed");
    }
    self().dest_state = Dest::Pack;
}

void dest_release() {
    if (self().dest_state != Dest::Pack) {
        fault("releases a destination register that it has not waited for");
    }
    self().dest_state = Dest::Free;
}

void pack(uint32_t dest, uint32_t index) {
    Fiber& fiber = self();
    if (fiber.dest_state != Dest::Pack) {
        fault("packs without tile_regs_wait");
    }
    if (dest >= fiber.dest.size() || !fiber.dest_written[dest]) {
        fault("packs tile " + std::to_string(dest) +
              " of the destination register, which nothing has written");
    }
    CircularBuffer& buffer = fiber.core->buffer(index);
    const uint32_t bytes = machine->arithmetic->tile_bytes(buffer.format);
    const uint32_t address = write_pointer(index) + buffer.packed * bytes;
    check_window(address, bytes, Access::Store);
    machine->arithmetic->pack(buffer.format, fiber.dest[dest].data(),
                              bytes_at(*fiber.core, address));
    std::fill_n(state_at(*fiber.core, address), bytes, Byte::Valid);
    ++buffer.packed;
}

}  // namespace emulated

using namespace emulated;

// The kernels that were compiled with this library, by name and text (kernel_table.cpp, made by
// build.rs).
void (*find_kernel(const char* name, const char* source))();

// Runs a program on one chip. 0: done. 1: a fault, whose text is in `error`. 2: a kernel is
// unknown.
extern "C" int tt_emulator_run(const ttp_program* program, const Dram* tensors,
                               uint32_t tensor_count, const Hardware* hardware,
                               const Arithmetic* arithmetic, char* error, size_t room) {
    Machine here;
    here.arithmetic = arithmetic;
    here.hardware = *hardware;
    here.tensors = tensors;
    here.tensor_count = tensor_count;
    Machine* outer = machine;
    machine = &here;
    int result = 0;
    try {
        for (uint32_t i = 0; i < program->kernel_count; ++i) {
            const ttp_kernel& kernel = program->kernels[i];
            auto entry = find_kernel(kernel.name, kernel.source);
            if (entry == nullptr) {
                result = 2;
                fault(std::string("kernel ") + kernel.name +
                      " was not compiled with this library, or from another text: rebuild "
                      "tt-mesh-sim");
            }
            size_t position = 0;
            for (uint32_t y = kernel.cores.y0; y <= kernel.cores.y1; ++y) {
                for (uint32_t x = kernel.cores.x0; x <= kernel.cores.x1; ++x, ++position) {
                    auto& core = here.cores[{x, y}];
                    if (!core) {
                        core = std::make_unique<Core>();
                        core->x = x;
                        core->y = y;
                    }
                    auto fiber = std::make_unique<Fiber>();
                    fiber->core = core.get();
                    fiber->kernel = &kernel;
                    fiber->entry = entry;
                    fiber->compile_args.assign(kernel.compile_args,
                                               kernel.compile_args + kernel.compile_arg_count);
                    fiber->compile_args.insert(fiber->compile_args.end(),
                                               kernel.accessor_count * accessor_words,
                                               interleaved_dram);
                    fiber->runtime_args = kernel.runtime_args + position * kernel.runtime_arg_count;
                    here.fibers.push_back(std::move(fiber));
                }
            }
        }
        lay_out_buffers(*program);
        for (auto& fiber : here.fibers) {
            prepare(*fiber);
        }
        schedule();
        unwind_waiting();
        for (auto& [place, core] : here.cores) {
            for (uint32_t i = 0; i < 32 && here.failure.empty(); ++i) {
                const CircularBuffer& buffer = core->buffers[i];
                if (buffer.received != buffer.acked) {
                    here.failure = "circular buffer " + std::to_string(i) + " on core (" +
                                   std::to_string(core->x) + ", " + std::to_string(core->y) +
                                   ") still holds " +
                                   std::to_string(buffer.received - buffer.acked) +
                                   " pages when all kernels have ended";
                }
            }
        }
    } catch (const Fault& found) {
        here.failure = found.text;
    } catch (const std::exception& found) {
        here.failure = found.what();
    }
    machine = outer;
    if (here.failure.empty()) {
        return 0;
    }
    std::snprintf(error, room, "%s", here.failure.c_str());
    return result == 0 ? 1 : result;
}
