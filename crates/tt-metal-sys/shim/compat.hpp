// Every difference between the two versions of TT-NN that the shim is written for; nothing else in
// the shim asks for the version.
//
//   TT_NN_API 66   tt-metal 191d0eed35, the wheel ttnn 0.66.0
//   TT_NN_API 81   the wheel ttnn 0.81.1
//
// What stands under 81 follows the symbols that the wheel's libraries export and those of its
// headers that it contains; it has not been compiled (README.md says what was checked how).
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "ttnn/distributed/types.hpp"
#include "ttnn/operations/ccl/all_gather/all_gather.hpp"
#include "ttnn/operations/experimental/plusone/plusone.hpp"
#include "ttnn/operations/experimental/transformer/nlp_create_qkv_heads/nlp_create_qkv_heads.hpp"
#include "ttnn/operations/kv_cache/kv_cache.hpp"
#include "ttnn/operations/matmul/matmul.hpp"
#include "ttnn/operations/reduction/argmax/argmax.hpp"
#include "ttnn/tensor/tensor.hpp"
#include "ttnn/tensor/tensor_ops.hpp"
#include "ttnn/types.hpp"

#ifndef TT_NN_API
#error "TT_NN_API is 66 or 81: set it by CMake's TT_NN_API"
#endif

namespace shim::compat {

#if TT_NN_API >= 81

// 66 has one structure for each architecture, in a variant.
using ComputeConfig = ttnn::ComputeKernelConfig;

using ttnn::copy_to_device;

inline ttnn::Tensor create_device_tensor(const ttnn::TensorSpec& spec,
                                         ttnn::distributed::MeshDevice* device) {
    return ttnn::create_device_tensor(spec, device, std::nullopt);
}

template <typename... Arguments>
ttnn::Tensor linear(Arguments&&... arguments) {
    return ttnn::operations::matmul::linear(std::forward<Arguments>(arguments)...);
}

inline void plus_one(const ttnn::Tensor& x) {
    ttnn::operations::experimental::plus_one(x, std::nullopt, false);
}

inline void fill_cache(const ttnn::Tensor& cache, const ttnn::Tensor& x) {
    ttnn::fill_cache(cache, x, 0, 0);
}

inline auto split_heads(const ttnn::Tensor& qkv, uint32_t q, uint32_t kv,
                        const ttnn::MemoryConfig& memory) {
    return ttnn::experimental::nlp_create_qkv_heads(qkv, std::nullopt, q, kv, false, false, memory,
                                                    std::nullopt);
}

// Of the last dimension, which is kept as 1, on several cores.
inline ttnn::Tensor argmax(const ttnn::Tensor& x, const ttnn::MemoryConfig& memory) {
    return ttnn::argmax(x, 3, true, std::nullopt, memory, std::nullopt, true);
}

inline ttnn::Tensor all_gather(const ttnn::Tensor& x, int32_t dim, uint32_t axis,
                               const ttnn::MemoryConfig& memory, uint32_t links,
                               tt::tt_fabric::Topology topology) {
    return ttnn::all_gather(x, dim, axis, memory, std::nullopt, std::nullopt, std::nullopt, links,
                            topology, std::nullopt, std::nullopt, std::nullopt, false);
}

#else

using ComputeConfig = ttnn::WormholeComputeKernelConfig;

using tt::tt_metal::copy_to_device;
using tt::tt_metal::create_device_tensor;

template <typename... Arguments>
ttnn::Tensor linear(Arguments&&... arguments) {
    return ttnn::linear(std::forward<Arguments>(arguments)...);
}

inline void plus_one(const ttnn::Tensor& x) { ttnn::plus_one(x); }

inline void fill_cache(const ttnn::Tensor& cache, const ttnn::Tensor& x) {
    ttnn::fill_cache(cache, x, 0);
}

inline auto split_heads(const ttnn::Tensor& qkv, uint32_t q, uint32_t kv,
                        const ttnn::MemoryConfig& memory) {
    return ttnn::experimental::nlp_create_qkv_heads(qkv, std::nullopt, q, kv, false, memory);
}

// Of the last dimension, which is kept as 1, on several cores.
inline ttnn::Tensor argmax(const ttnn::Tensor& x, const ttnn::MemoryConfig& memory) {
    return ttnn::argmax(x, 3, true, std::nullopt, true, memory);
}

inline ttnn::Tensor all_gather(const ttnn::Tensor& x, int32_t dim, uint32_t axis,
                               const ttnn::MemoryConfig& memory, uint32_t links,
                               tt::tt_fabric::Topology topology) {
    return ttnn::all_gather(x, dim, axis, std::nullopt, memory, std::nullopt, links, topology);
}

#endif

}  // namespace shim::compat
