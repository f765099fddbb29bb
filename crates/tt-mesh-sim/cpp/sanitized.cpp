// Runs the kernels and the emulated cores without Rust, under AddressSanitizer and
// UndefinedBehaviorSanitizer (tests/sanitized.rs). Arithmetic is that of plain floats: results are
// exact for the small integers used here.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "emulator.hpp"

using emulated::Arithmetic;
using emulated::Dram;
using emulated::Hardware;

extern "C" int tt_emulator_run(const ttp_program* program, const Dram* tensors,
                               uint32_t tensor_count, const Hardware* hardware,
                               const Arithmetic* arithmetic, char* error, size_t room);

namespace {

uint32_t tile_bytes(uint32_t format) { return format == TTP_FORMAT_BF16 ? 2048 : 4096; }

uint32_t face_order(uint32_t at) {
    const uint32_t row = at / 32;
    const uint32_t column = at % 32;
    return (row / 16 * 2 + column / 16) * 256 + row % 16 * 16 + column % 16;
}

void unpack(uint32_t format, const uint8_t* tile, float* rows) {
    for (uint32_t at = 0; at < 1024; ++at) {
        uint32_t bits = 0;
        if (format == TTP_FORMAT_BF16) {
            uint16_t word;
            std::memcpy(&word, tile + 2 * face_order(at), 2);
            bits = static_cast<uint32_t>(word) << 16;
        } else {
            std::memcpy(&bits, tile + 4 * face_order(at), 4);
        }
        std::memcpy(rows + at, &bits, 4);
    }
}

void pack(uint32_t format, const float* rows, uint8_t* tile) {
    for (uint32_t at = 0; at < 1024; ++at) {
        uint32_t bits;
        std::memcpy(&bits, rows + at, 4);
        if (format == TTP_FORMAT_BF16) {
            const uint16_t word = static_cast<uint16_t>(bits >> 16);
            std::memcpy(tile + 2 * face_order(at), &word, 2);
        } else {
            std::memcpy(tile + 4 * face_order(at), &bits, 4);
        }
    }
}

void multiply(const float* in0, const float* in1, float* dest, uint32_t, uint32_t) {
    for (uint32_t r = 0; r < 32; ++r) {
        for (uint32_t k = 0; k < 32; ++k) {
            for (uint32_t c = 0; c < 32; ++c) {
                dest[r * 32 + c] += in0[r * 32 + k] * in1[k * 32 + c];
            }
        }
    }
}

const Arithmetic arithmetic{unpack, pack, multiply, tile_bytes};

// The chip that the programs run on.
Hardware hardware;

struct Tensor {
    uint32_t base;
    uint32_t page_bytes;
    std::vector<uint8_t> data;
    std::vector<uint8_t> written;
    Tensor(uint32_t at, uint32_t page, uint32_t pages, bool filled)
        : base(at),
          page_bytes(page),
          data(page * pages, 0),
          written(page * pages, filled ? 1 : 0) {}
    Dram dram() {
        return {base, page_bytes, static_cast<uint32_t>(data.size() / page_bytes), data.data(),
                written.data()};
    }
};

std::string source_folder;

// Kernels lie beside this program, as the test wrote them.
struct Text {
    std::string name;
    std::string source;
    Text(const char* kernel, const char* file) : name(kernel) {
        std::ifstream in(source_folder + "/" + file);
        std::stringstream all;
        all << in.rdbuf();
        source = all.str();
    }
};

ttp_kernel kernel(const Text& text, uint32_t role, ttp_core_range cores,
                  const std::vector<uint32_t>& compile, uint32_t accessors,
                  const std::vector<uint32_t>& runtime, uint32_t each) {
    ttp_kernel made{};
    made.name = text.name.c_str();
    made.source = text.source.c_str();
    made.compile_args = compile.data();
    made.runtime_args = runtime.data();
    made.compile_arg_count = static_cast<uint32_t>(compile.size());
    made.accessor_count = accessors;
    made.runtime_arg_count = each;
    made.role = role;
    made.cores = cores;
    made.compute = {TTP_HIFI4, 1, 0};
    return made;
}

int run(const std::vector<ttp_kernel>& kernels, const std::vector<ttp_circular_buffer>& buffers,
        std::vector<Tensor*> tensors, std::string& error) {
    std::vector<Dram> drams;
    for (Tensor* tensor : tensors) {
        drams.push_back(tensor->dram());
    }
    ttp_program program{kernels.data(),
                        buffers.data(),
                        nullptr,
                        static_cast<uint32_t>(kernels.size()),
                        static_cast<uint32_t>(buffers.size()),
                        0,
                        0};
    char text[1024] = "";
    const int status = tt_emulator_run(&program, drams.data(), static_cast<uint32_t>(drams.size()),
                                       &hardware, &arithmetic, text, sizeof text);
    error = text;
    return status;
}

void check(bool good, const std::string& what) {
    if (!good) {
        std::printf("FAIL %s\n", what.c_str());
        std::exit(1);
    }
}

// 224x224 bytes to patches on 56 cores, twice with a kernel that lacks a barrier or never pushes.
void patches() {
    const uint32_t side = 224, patch = 14, columns = 19, share = 3;
    const uint32_t unit = hardware.dram_alignment;
    const uint32_t stride = (3 * side + unit - 1) / unit * unit;
    Tensor image(1 << 20, 3 * side, side, true);
    for (size_t i = 0; i < image.data.size(); ++i) {
        image.data[i] = static_cast<uint8_t>(i * 31 + i / 977);
    }
    // Five rows of cores for eight rows of tiles: three of them have two.
    const uint32_t grid_rows = 5;
    const ttp_core_range cores{0, 0, 6, grid_rows - 1};
    std::vector<uint32_t> read_args, write_args;
    for (uint32_t row = 0; row < grid_rows; ++row) {
        const uint32_t turns = (8 - row + grid_rows - 1) / grid_rows;
        for (uint32_t column = 0; column < 7; ++column) {
            const uint32_t first = column * share;
            const uint32_t count = std::min(share, columns - first);
            read_args.insert(read_args.end(), {1u << 20, row, turns, grid_rows, first, count});
            write_args.insert(write_args.end(), {1u << 24, row * columns + first, count, turns,
                                                 grid_rows * columns});
        }
    }
    const std::vector<uint32_t> read_compile{side, patch, stride}, write_compile{2048};
    const std::vector<ttp_circular_buffer> buffers{{0, TTP_FORMAT_U8, stride, 28, cores},
                                                   {16, TTP_FORMAT_BF16, 2048, 2, cores}};
    const Text writer("dataflow/write_tiles.cpp", "write_tiles");
    for (const char* file :
         {"image_patches", "image_patches_without_barrier", "image_patches_without_push"}) {
        Tensor out(1 << 24, 2048, 8 * columns, false);
        const Text reader("dataflow/image_patches.cpp", file);
        std::string error;
        const int status =
            run({kernel(reader, TTP_ROLE_READER, cores, read_compile, 1, read_args, 6),
                 kernel(writer, TTP_ROLE_WRITER, cores, write_compile, 1, write_args, 5)},
                buffers, {&image, &out}, error);
        if (std::string(file) != "image_patches") {
            check(status == 1 && error.find(std::string(file).ends_with("push")
                                                ? "deadlock"
                                                : "barrier is missing") != std::string::npos,
                  std::string(file) + ": " + error);
            continue;
        }
        check(status == 0, error);
        for (uint32_t at = 0; at < 256; ++at) {
            for (uint32_t k = 0; k < 608; ++k) {
                float rows[1024];
                if (k % 32 == 0 && at % 32 == 0) {
                    unpack(TTP_FORMAT_BF16, out.data.data() + (at / 32 * columns + k / 32) * 2048,
                           rows);
                    for (uint32_t r = 0; r < 32; ++r) {
                        for (uint32_t c = 0; c < 32; ++c) {
                            const uint32_t p = at + r, q = k + c, within = q % 196;
                            const uint32_t pixel = (p / 16 * 14 + within / 14) * 672 +
                                                   (p % 16 * 14 + within % 14) * 3 + q / 196;
                            const float expected =
                                q < 588 ? static_cast<float>(image.data[pixel]) - 128.0f : 0.0f;
                            check(rows[r * 32 + c] == expected, "a patch value differs");
                        }
                    }
                }
            }
        }
    }
}

// [32, 128] by [128, 64] on two cores: readers, compute and writers at once.
void product() {
    Tensor x(1 << 20, 2048, 4, true), w(1 << 21, 2048, 8, true), out(1 << 22, 4096, 2, false);
    const auto value = [](uint32_t i) {
        return static_cast<float>(static_cast<int>(i * 7 % 15) - 7);
    };
    for (Tensor* tensor : {&x, &w}) {
        for (size_t page = 0; page < tensor->data.size() / 2048; ++page) {
            float rows[1024];
            for (uint32_t i = 0; i < 1024; ++i) {
                rows[i] = value(i + static_cast<uint32_t>(page));
            }
            pack(TTP_FORMAT_BF16, rows, tensor->data.data() + page * 2048);
        }
    }
    const ttp_core_range cores{0, 0, 1, 0};
    const Text reader("dataflow/read_columns.cpp", "read_columns"),
        math("compute/column_matmul.cpp", "column_matmul"),
        writer("dataflow/write_tiles.cpp", "write_tiles");
    const std::vector<uint32_t> read_compile{4, 2, 2, 2048, 2048}, math_compile{4, 2},
        write_compile{4096}, none;
    const std::vector<uint32_t> read_args{1u << 20, 1u << 21, 0, 1u << 20, 1u << 21, 1},
        write_args{1u << 22, 0, 1, 1, 0, 1u << 22, 1, 1, 1, 0};
    std::string error;
    const int status =
        run({kernel(reader, TTP_ROLE_READER, cores, read_compile, 2, read_args, 3),
             kernel(math, TTP_ROLE_COMPUTE, cores, math_compile, 0, none, 0),
             kernel(writer, TTP_ROLE_WRITER, cores, write_compile, 1, write_args, 5)},
            {{0, TTP_FORMAT_BF16, 2048, 4, cores},
             {1, TTP_FORMAT_BF16, 2048, 4, cores},
             {16, TTP_FORMAT_F32, 4096, 1, cores}},
            {&x, &w, &out}, error);
    check(status == 0, error);
    for (uint32_t n = 0; n < 2; ++n) {
        float rows[1024];
        unpack(TTP_FORMAT_F32, out.data.data() + n * 4096, rows);
        for (uint32_t r = 0; r < 32; ++r) {
            for (uint32_t c = 0; c < 32; ++c) {
                float sum = 0;
                for (uint32_t k = 0; k < 128; ++k) {
                    sum +=
                        value(r * 32 + k % 32 + k / 32) * value(k % 32 * 32 + c + k / 32 * 2 + n);
                }
                check(rows[r * 32 + c] == sum, "a product differs");
            }
        }
    }
}

}  // namespace

int main(int, char** arguments) {
    source_folder = arguments[1];
    // Wormhole, Blackhole.
    for (const Hardware& chip : {Hardware{12, 32, 1464 * 1024}, Hardware{8, 64, 1536 * 1024}}) {
        hardware = chip;
        patches();
        product();
    }
    std::puts("sanitized: patches, product and two faults as expected");
    return 0;
}
