// What the files of the shim share: handles, refusals, and the way from exceptions to statuses.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <tt-metalium/mesh_device.hpp>

#include "boards.hpp"
#include "tt_provider.h"
#include "ttnn/distributed/types.hpp"
#include "ttnn/operations/trace.hpp"
#include "ttnn/tensor/tensor.hpp"
#include "ttnn/types.hpp"

namespace shim {

using ttnn::Tensor;

struct Refusal {
    ttp_status status;
    std::string text;
};

[[noreturn]] inline void refuse(ttp_status status, std::string text) {
    throw Refusal{status, std::move(text)};
}
inline void require(bool condition, const std::string& text) {
    if (!condition) {
        refuse(TTP_INVALID_ARGUMENT, text);
    }
}

struct Mesh {
    std::mutex lock;
    uint64_t id = 0;
    const Board* board = nullptr;
    uint32_t chips = 0;
    bool mock = false;
    uint64_t trace_region = 0;
    std::shared_ptr<ttnn::distributed::MeshDevice> device;
    std::unordered_map<uint64_t, Tensor> tensors;
    std::unordered_map<uint64_t, ttnn::MeshTraceId> traces;
    std::optional<ttnn::MeshTraceId> capturing;
    std::optional<Tensor>
        rope_matrix;  // exchanges neighbours: what the pair-wise rotary kernel multiplies by
    uint64_t peak = 0;
    uint64_t next = 0;

    uint64_t add(Tensor tensor);
    Tensor& tensor(uint64_t handle);
    void not_while_capturing(const char* what) const;
};

constexpr unsigned mesh_shift = 40;
inline uint64_t mesh_of(uint64_t handle) { return handle >> mesh_shift << mesh_shift; }

std::shared_ptr<Mesh> find_mesh(uint64_t handle);

// Keeps this thread's error text.
void remember(const std::string& text);
// The status of the exception being handled; `otherwise` for those of TT-NN that do not say more.
ttp_status translate(ttp_status otherwise) noexcept;

template <typename Body>
ttp_status guard(ttp_status otherwise, Body&& body) noexcept {
    try {
        body();
        return TTP_OK;
    } catch (...) {
        return translate(otherwise);
    }
}

// Runs `body` with the mesh of a handle, locked.
template <typename Body>
ttp_status on_mesh(uint64_t handle, ttp_status otherwise, Body&& body) noexcept {
    return guard(otherwise, [&] {
        auto mesh = find_mesh(handle);
        std::lock_guard<std::mutex> locked(mesh->lock);
        body(*mesh);
    });
}

ttnn::DataType to_dtype(uint32_t format);
uint32_t from_dtype(ttnn::DataType dtype);
ttnn::Layout to_layout(uint32_t layout);
ttnn::Shape to_shape(const uint32_t* dims);
std::vector<uint32_t> dims_of(const Tensor& tensor);

// Zeros or an upload; also used for the rotary matrix.
Tensor upload(Mesh& mesh, const ttp_host& host, const ttp_distribution& distribution,
              uint32_t format, uint32_t layout);

}  // namespace shim
