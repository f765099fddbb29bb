// Operations. Everything that TT-NN would choose by itself is passed explicitly: program
// configuration, compute configuration, epsilon, memory, topology; its defaults are LoFi, a bf16
// destination and an epsilon of 1e-12.
#include <algorithm>
#include <array>

#include <tt-metalium/program_descriptors.hpp>
#include <tt-metalium/tensor_accessor_args.hpp>

#include "compat.hpp"
#include "shim.hpp"
#include "ttnn/operations/ccl/all_reduce/all_reduce.hpp"
#include "ttnn/operations/ccl/mesh_partition/mesh_partition.hpp"
#include "ttnn/operations/ccl/reduce_scatter/reduce_scatter.hpp"
#include "ttnn/operations/copy/typecast/typecast.hpp"
#include "ttnn/operations/core/core.hpp"
#include "ttnn/operations/data_movement/concat/concat.hpp"
#include "ttnn/operations/data_movement/copy/copy.hpp"
#include "ttnn/operations/data_movement/slice/slice.hpp"
#include "ttnn/operations/data_movement/transpose/transpose.hpp"
#include "ttnn/operations/eltwise/binary/binary.hpp"
#include "ttnn/operations/eltwise/unary/unary.hpp"
#include "ttnn/operations/embedding/embedding.hpp"
#include "ttnn/operations/experimental/paged_cache/paged_cache.hpp"
#include "ttnn/operations/experimental/reshape/view.hpp"
#include "ttnn/operations/experimental/transformer/nlp_concat_heads/nlp_concat_heads.hpp"
#include "ttnn/operations/experimental/transformer/rotary_embedding/rotary_embedding.hpp"
#include "ttnn/operations/experimental/transformer/rotary_embedding_llama/rotary_embedding_llama.hpp"
#include "ttnn/operations/generic/generic_op.hpp"
#include "ttnn/operations/normalization/layernorm/layernorm.hpp"
#include "ttnn/operations/normalization/rmsnorm/rmsnorm.hpp"
#include "ttnn/operations/transformer/sdpa/sdpa.hpp"
#include "ttnn/operations/transformer/sdpa_decode/sdpa_decode.hpp"

using namespace shim;
namespace matmul = ttnn::operations::matmul;
using ttnn::operations::unary::EltwiseUnaryWithParam;
using ttnn::operations::unary::UnaryOpType;
using ttnn::operations::unary::UnaryWithParam;

namespace {

const auto dram = ttnn::DRAM_MEMORY_CONFIG;

uint32_t tiles(uint32_t elements) { return (elements + 31) / 32; }

compat::ComputeConfig compute_of(const ttp_compute* compute) {
    require(compute != nullptr, "compute is NULL");
    auto fidelity = MathFidelity::HiFi4;
    switch (compute->fidelity) {
        case TTP_LOFI:
            fidelity = MathFidelity::LoFi;
            break;
        case TTP_HIFI2:
            fidelity = MathFidelity::HiFi2;
            break;
        case TTP_HIFI3:
            fidelity = MathFidelity::HiFi3;
            break;
        case TTP_HIFI4:
            break;
        default:
            refuse(TTP_INVALID_ARGUMENT,
                   "fidelity " + std::to_string(compute->fidelity) +
                       " is none of TTP_LOFI, TTP_HIFI2, TTP_HIFI3, TTP_HIFI4");
    }
    compat::ComputeConfig config{};
    config.math_fidelity = fidelity;
    config.math_approx_mode = compute->approx != 0;
    config.fp32_dest_acc_en = compute->fp32_dest != 0;
    config.packer_l1_acc = true;
    config.dst_full_sync_en = false;
    return config;
}

// GELU with parameter 0 is the erf polynomial; 1 would be a table. TT-NN 0.66 has no GELU by tanh,
// so that this is the erf form too: at most 0.0005 apart (header).
std::optional<UnaryWithParam> activation_of(uint32_t activation) {
    switch (activation) {
        case TTP_ACT_NONE:
            return std::nullopt;
        case TTP_ACT_GELU:
        case TTP_ACT_GELU_TANH:
            return UnaryWithParam(UnaryOpType::GELU, 0.0f);
        case TTP_ACT_SILU:
            return UnaryWithParam(UnaryOpType::SILU);
        case TTP_ACT_RELU:
            return UnaryWithParam(UnaryOpType::RELU);
        default:
            refuse(TTP_INVALID_ARGUMENT,
                   "activation " + std::to_string(activation) + " is none of TTP_ACT_*");
    }
}

uint32_t largest_divisor(uint32_t value, uint32_t limit) {
    for (uint32_t candidate = std::min(value, limit); candidate > 1; --candidate) {
        if (value % candidate == 0) {
            return candidate;
        }
    }
    return 1;
}

// One row of blocks for few rows of tiles (weights are then read once and by all cores), a grid of
// blocks for many.
matmul::MatmulProgramConfig linear_config(const Mesh& mesh, uint32_t m, uint32_t k, uint32_t n,
                                          bool fp32_dest,
                                          const std::optional<UnaryWithParam>& activation) {
    const auto grid = mesh.device->compute_with_storage_grid_size();
    const auto columns = static_cast<uint32_t>(grid.x);
    const auto rows = static_cast<uint32_t>(grid.y);
    const bool one_row = m <= 16;
    const uint32_t per_core_m = one_row ? m : (m + rows - 1) / rows;
    const uint32_t per_core_n =
        one_row ? (n + columns * rows - 1) / (columns * rows) : (n + columns - 1) / columns;
    // The destination holds 8 tiles of bf16 or 4 of float32; a block is either as wide as a core's
    // part or one tile high.
    const uint32_t room = fp32_dest ? 4 : 8;
    // A core's part of a wide result is computed in several goes, so that sums fit its L1.
    uint32_t out_n = per_core_n;
    while (!one_row && out_n > 1 && uint64_t{per_core_m} * out_n * (4096 + 2048) > 700 * 1024) {
        out_n = largest_divisor(per_core_n, out_n - 1);
    }
    const uint32_t sub_w = largest_divisor(out_n, room);
    const uint32_t sub_h = sub_w == out_n ? largest_divisor(per_core_m, room / sub_w) : 1;
    // Operands are buffered twice, the result once beside its float32 sum; 1.2 MB of a core's L1
    // are ours.
    uint32_t block = largest_divisor(k, 8);
    const uint64_t result = uint64_t{per_core_m} * out_n * (4096 + 2048);
    while (block > 1 && result + 2ull * 2048 * block * (per_core_m + out_n) > 1200 * 1024) {
        block = largest_divisor(k, block - 1);
    }
    if (one_row) {
        matmul::MatmulMultiCoreReuseMultiCast1DProgramConfig config{};
        config.compute_with_storage_grid_size = grid;
        config.in0_block_w = block;
        config.out_subblock_h = sub_h;
        config.out_subblock_w = sub_w;
        config.out_block_h = per_core_m;
        config.out_block_w = per_core_n;
        config.per_core_M = per_core_m;
        config.per_core_N = per_core_n;
        config.fuse_batch = true;
        config.fused_activation = activation;
        config.mcast_in0 = true;
        return config;
    }
    matmul::MatmulMultiCoreReuseMultiCastProgramConfig config{};
    config.compute_with_storage_grid_size = grid;
    config.in0_block_w = block;
    config.out_subblock_h = sub_h;
    config.out_subblock_w = sub_w;
    config.out_block_h = per_core_m;
    config.out_block_w = out_n;
    config.per_core_M = per_core_m;
    config.per_core_N = per_core_n;
    config.fused_activation = activation;
    config.fuse_batch = true;
    return config;
}

std::optional<const Tensor> optional_tensor(Mesh& mesh, ttp_tensor handle) {
    return handle == 0 ? std::nullopt : std::optional<const Tensor>(mesh.tensor(handle));
}

ttnn::Shape shape(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return ttnn::Shape({a, b, c, d});
}

// The same data under another shape, without a copy where TT-NN allows.
Tensor reshaped(const Tensor& tensor, const ttnn::Shape& to) {
    return ttnn::reshape(tensor, to, dram);
}

Tensor copy_of(const Tensor& tensor) {
    return ttnn::assign(tensor, dram, std::nullopt, std::nullopt);
}

// [1, H, S, D] in L1, a head on each core of a rectangle.
tt::tt_metal::MemoryConfig heads_over_cores(const std::vector<uint32_t>& dims,
                                            const CoreCoord& grid) {
    const uint32_t columns = largest_divisor(dims[1], static_cast<uint32_t>(grid.x));
    const uint32_t rows = dims[1] / columns;
    require(rows <= grid.y, std::to_string(dims[1]) + " heads do not fit a rectangle of " +
                                std::to_string(grid.x) + " by " + std::to_string(grid.y) +
                                " cores: split the heads over more chips");
    const tt::tt_metal::CoreRangeSet cores(
        CoreRange(CoreCoord(0, 0), CoreCoord(columns - 1, rows - 1)));
    const tt::tt_metal::ShardSpec shard(cores, {tiles(dims[2]) * 32, tiles(dims[3]) * 32},
                                        tt::tt_metal::ShardOrientation::ROW_MAJOR);
    return tt::tt_metal::MemoryConfig(tt::tt_metal::TensorMemoryLayout::HEIGHT_SHARDED,
                                      tt::tt_metal::BufferType::L1, shard);
}

// Every operation with one output: on the mesh of its first tensor, refused arguments unless TT-NN
// says more.
template <typename Body>
ttp_status one(ttp_tensor first, ttp_tensor* out, Body&& body) {
    return on_mesh(first, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        require(out != nullptr, "the pointer for the result is NULL");
        *out = mesh.add(body(mesh));
    });
}

tt::tt_fabric::Topology topology(const Mesh& mesh) {
    return mesh.board->ring ? tt::tt_fabric::Topology::Ring : tt::tt_fabric::Topology::Linear;
}

// Ethernet links of a collective; TT-NN wants one where there is no neighbour.
uint32_t links(const Mesh& mesh) { return std::max(mesh.board->links, 1u); }

tt::DataFormat data_format(uint32_t format) {
    switch (format) {
        case TTP_FORMAT_F32:
            return tt::DataFormat::Float32;
        case TTP_FORMAT_BF16:
            return tt::DataFormat::Float16_b;
        case TTP_FORMAT_BFP8_B:
            return tt::DataFormat::Bfp8_b;
        case TTP_FORMAT_BFP4_B:
            return tt::DataFormat::Bfp4_b;
        case TTP_FORMAT_U32:
            return tt::DataFormat::UInt32;
        case TTP_FORMAT_I32:
            return tt::DataFormat::Int32;
        case TTP_FORMAT_U8:
            return tt::DataFormat::UInt8;
        default:
            refuse(TTP_INVALID_ARGUMENT,
                   "format " + std::to_string(format) + " is none of TTP_FORMAT_*");
    }
}

tt::tt_metal::CoreRangeSet cores_of(const ttp_core_range& range) {
    return tt::tt_metal::CoreRangeSet(
        CoreRange(CoreCoord(range.x0, range.y0), CoreCoord(range.x1, range.y1)));
}

}  // namespace

extern "C" ttp_status ttp_linear(ttp_tensor x, ttp_tensor w, ttp_tensor bias, uint32_t activation,
                                 const ttp_compute* compute, uint32_t format, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        const Tensor& a = mesh.tensor(x);
        const Tensor& b = mesh.tensor(w);
        const auto left = dims_of(a);
        const auto right = dims_of(b);
        require(right[0] == 1 && right[1] == 1 && left[3] == right[2],
                "linear: x has " + std::to_string(left[3]) + " columns and w " +
                    std::to_string(right[2]) + " rows");
        const auto config = compute_of(compute);
        const auto program =
            linear_config(mesh, left[0] * left[1] * tiles(left[2]), tiles(left[3]), tiles(right[3]),
                          compute->fp32_dest != 0, activation_of(activation));
        return compat::linear(a, b, optional_tensor(mesh, bias), false, false, dram,
                              to_dtype(format), program, std::nullopt, config);
    });
}

extern "C" ttp_status ttp_layer_norm(ttp_tensor x, ttp_tensor weight, ttp_tensor bias, float eps,
                                     const ttp_compute* compute, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        require(eps > 0.0f, "layer_norm: eps must be positive");
        return ttnn::layer_norm(mesh.tensor(x), eps, optional_tensor(mesh, weight),
                                optional_tensor(mesh, bias), std::nullopt, dram,
                                ttnn::prim::LayerNormDefaultProgramConfig{}, compute_of(compute));
    });
}

extern "C" ttp_status ttp_rms_norm(ttp_tensor x, ttp_tensor weight, float eps,
                                   const ttp_compute* compute, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        require(eps > 0.0f, "rms_norm: eps must be positive");
        return ttnn::rms_norm(mesh.tensor(x), eps, optional_tensor(mesh, weight), std::nullopt,
                              std::nullopt, dram, ttnn::prim::LayerNormDefaultProgramConfig{},
                              compute_of(compute));
    });
}

extern "C" ttp_status ttp_rope(ttp_tensor x, ttp_tensor cosine, ttp_tensor sine, uint32_t order,
                               const ttp_compute* compute, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        const Tensor& input = mesh.tensor(x);
        if (order == TTP_ROPE_HALF) {
            // What ttp_split_heads_decode left on a core stays there.
            const auto memory = input.is_sharded() ? input.memory_config() : dram;
            Tensor turned =
                ttnn::experimental::rotary_embedding(input, mesh.tensor(cosine), mesh.tensor(sine),
                                                     std::nullopt, memory, compute_of(compute));
            // This kernel rounds the rows up to whole tiles: the same tiles, under their own shape.
            if (dims_of(turned) != dims_of(input)) {
                turned = ttnn::experimental::view(turned, input.logical_shape(),
                                                  input.padded_shape());
            }
            return turned;
        }
        require(order == TTP_ROPE_PAIRS,
                "rope: order " + std::to_string(order) + " is none of TTP_ROPE_*");
        if (!mesh.rope_matrix) {
            mesh.not_while_capturing("the first pair-wise rope");
            // (x0, x1) -> (-x1, x0) for every pair of columns.
            std::vector<float> matrix(32 * 32, 0.0f);
            for (uint32_t i = 0; i < 32; i += 2) {
                matrix[(i + 1) * 32 + i] = -1.0f;
                matrix[i * 32 + i + 1] = 1.0f;
            }
            const ttp_host host{matrix.data(),
                                matrix.size() * sizeof(float),
                                {1, 1, 32, 32},
                                TTP_FORMAT_F32,
                                TTP_LAYOUT_ROW_MAJOR};
            mesh.rope_matrix =
                upload(mesh, host, {TTP_REPLICATE, 0}, TTP_FORMAT_BF16, TTP_LAYOUT_TILE);
        }
        return ttnn::experimental::rotary_embedding_llama(input, mesh.tensor(cosine),
                                                          mesh.tensor(sine), *mesh.rope_matrix,
                                                          false, dram, compute_of(compute));
    });
}

extern "C" ttp_status ttp_split_heads(ttp_tensor qkv, uint32_t q_heads, uint32_t kv_heads,
                                      ttp_tensor* q, ttp_tensor* k, ttp_tensor* v) {
    return on_mesh(qkv, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        require(q != nullptr && k != nullptr && v != nullptr, "a pointer for a result is NULL");
        // TT-NN takes heads of any width and gives out wrong columns for those that do not fill
        // whole tiles.
        const uint32_t width = dims_of(mesh.tensor(qkv))[3];
        const uint32_t heads = q_heads + 2 * kv_heads;
        require(heads > 0 && width % heads == 0 && width / heads % 32 == 0,
                "split_heads: " + std::to_string(width) + " columns in " + std::to_string(heads) +
                    " heads do not fill whole tiles; pad each head with zeros in the weights");
        auto [query, key, value] = compat::split_heads(mesh.tensor(qkv), q_heads, kv_heads, dram);
        *q = mesh.add(std::move(query));
        *k = mesh.add(std::move(key));
        *v = mesh.add(std::move(value));
    });
}

extern "C" ttp_status ttp_concat_heads(ttp_tensor x, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        const uint32_t width = dims_of(mesh.tensor(x))[3];
        require(width % 32 == 0,
                "concat_heads: head dimension " + std::to_string(width) +
                    " is not a multiple of 32; pad each head with zeros in the weights");
        return ttnn::experimental::nlp_concat_heads(mesh.tensor(x), dram);
    });
}

extern "C" ttp_status ttp_attention(ttp_tensor q, ttp_tensor k, ttp_tensor v, ttp_tensor mask,
                                    uint32_t causal, float scale, const ttp_compute* compute,
                                    ttp_tensor* out) {
    return one(q, out, [&](Mesh& mesh) {
        const Tensor& query = mesh.tensor(q);
        const Tensor& key = mesh.tensor(k);
        ttnn::operations::transformer::SDPAProgramConfig program{};
        program.compute_with_storage_grid_size = mesh.device->compute_with_storage_grid_size();
        // With a mask, TT-NN wants chunks that divide the rows.
        const auto chunk = [&](uint32_t rows) -> uint32_t {
            const bool whole = mask == 0 || rows % 64 == 0;
            return whole ? std::min<uint32_t>(64, tiles(rows) * 32) : 32;
        };
        program.q_chunk_size = chunk(dims_of(query)[2]);
        program.k_chunk_size = chunk(dims_of(key)[2]);
        program.exp_approx_mode = compute != nullptr && compute->approx != 0;
        const auto mask_tensor =
            mask == 0 ? std::nullopt : std::optional<Tensor>(mesh.tensor(mask));
        return ttnn::transformer::scaled_dot_product_attention(
            query, key, mesh.tensor(v), mask_tensor, causal != 0, scale, std::nullopt, dram,
            program, compute_of(compute));
    });
}

extern "C" ttp_status ttp_attention_decode(ttp_tensor q, ttp_tensor k_cache, ttp_tensor v_cache,
                                           ttp_tensor position, float scale,
                                           const ttp_compute* compute, ttp_tensor* out) {
    return one(q, out, [&](Mesh& mesh) {
        // TT-NN wants [1, batch, heads, D] and a position for each of the batch.
        const Tensor& given = mesh.tensor(q);
        const Tensor query = dims_of(given)[1] == 1 ? given : ttnn::transpose(given, 1, 2, dram);
        const Tensor at = reshaped(mesh.tensor(position), ttnn::Shape({1}));
        ttnn::operations::transformer::SDPAProgramConfig program{};
        program.compute_with_storage_grid_size = mesh.device->compute_with_storage_grid_size();
        program.q_chunk_size = 0;
        program.k_chunk_size = 0;  // chosen by TT-NN from the length of the cache
        program.exp_approx_mode = compute != nullptr && compute->approx != 0;
        const Tensor result = ttnn::transformer::scaled_dot_product_attention_decode(
            query, mesh.tensor(k_cache), mesh.tensor(v_cache), true, std::nullopt,
            std::vector<uint32_t>{}, at, std::nullopt, scale, std::nullopt, dram, program,
            compute_of(compute));
        return ttnn::transpose(result, 1, 2, dram);
    });
}

extern "C" ttp_status ttp_cache_fill(ttp_tensor cache, ttp_tensor x) {
    return on_mesh(cache, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        const Tensor& target = mesh.tensor(cache);
        Tensor rows = mesh.tensor(x);
        if (rows.dtype() != target.dtype()) {
            rows = ttnn::typecast(rows, target.dtype(), dram);
        }
        // TT-NN gives each core one row of tiles, and refuses more of them than cores. Of a tensor
        // that lies sharded in L1 each core takes a whole head.
        const auto dims = dims_of(rows);
        const auto grid = mesh.device->compute_with_storage_grid_size();
        if (dims[1] > 1 && dims[1] * tiles(dims[2]) > grid.x * grid.y) {
            rows = ttnn::to_memory_config(rows, heads_over_cores(dims, grid), std::nullopt);
        }
        compat::fill_cache(target, rows);
    });
}

extern "C" ttp_status ttp_cache_update(ttp_tensor cache, ttp_tensor x, ttp_tensor position) {
    return on_mesh(cache, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        const Tensor& target = mesh.tensor(cache);
        // [1, G, 1, D] -> [1, 1, G, D], its one row of tiles on one core, as this operation wants
        // it.
        const Tensor row = ttnn::transpose(mesh.tensor(x), 1, 2, dram);
        const auto dims = dims_of(row);
        const tt::tt_metal::CoreRangeSet core(CoreRange(CoreCoord(0, 0), CoreCoord(0, 0)));
        const tt::tt_metal::ShardSpec shard(core, {tiles(dims[2]) * 32, tiles(dims[3]) * 32},
                                            tt::tt_metal::ShardOrientation::ROW_MAJOR);
        const tt::tt_metal::MemoryConfig sharded(tt::tt_metal::TensorMemoryLayout::HEIGHT_SHARDED,
                                                 tt::tt_metal::BufferType::L1, shard);
        const Tensor placed = ttnn::to_memory_config(row, sharded, std::nullopt);
        const Tensor at = reshaped(mesh.tensor(position), ttnn::Shape({1}));
        ttnn::experimental::paged_update_cache(target, placed, std::vector<uint32_t>{}, at,
                                               std::nullopt, std::nullopt, 0, std::nullopt,
                                               std::nullopt);
    });
}

extern "C" ttp_status ttp_embedding(ttp_tensor ids, ttp_tensor table, uint32_t layout,
                                    ttp_tensor* out) {
    return one(ids, out, [&](Mesh& mesh) {
        const Tensor& weight = mesh.tensor(table);
        const uint32_t count = dims_of(mesh.tensor(ids))[3];
        const uint32_t width = dims_of(weight)[3];
        const Tensor flat = reshaped(mesh.tensor(ids), ttnn::Shape({1, count}));
        // Tiles from the operation itself need whole rows of 32 ids: other counts become tiles
        // afterwards.
        const bool direct = layout == TTP_LAYOUT_TILE && count % 32 == 0;
        Tensor rows = ttnn::embedding(
            flat, weight, std::nullopt, direct ? ttnn::Layout::TILE : ttnn::Layout::ROW_MAJOR,
            ttnn::prim::EmbeddingsType::GENERIC, ttnn::DataType::BFLOAT16, dram);
        rows = reshaped(rows, shape(1, 1, count, width));
        return layout == TTP_LAYOUT_TILE && !direct
                   ? ttnn::to_layout(rows, ttnn::Layout::TILE, std::nullopt, dram)
                   : rows;
    });
}

extern "C" ttp_status ttp_binary(ttp_tensor a, ttp_tensor b, uint32_t operation,
                                 uint32_t left_activation, uint32_t format, ttp_tensor* out) {
    return one(a, out, [&](Mesh& mesh) {
        std::vector<EltwiseUnaryWithParam> left;
        switch (left_activation) {
            case TTP_ACT_NONE:
                break;
            case TTP_ACT_GELU:
            case TTP_ACT_GELU_TANH:
                left.push_back(EltwiseUnaryWithParam(UnaryOpType::GELU, 0.0f));
                break;
            case TTP_ACT_SILU:
                left.push_back(EltwiseUnaryWithParam(UnaryOpType::SILU));
                break;
            case TTP_ACT_RELU:
                left.push_back(EltwiseUnaryWithParam(UnaryOpType::RELU));
                break;
            default:
                activation_of(left_activation);
                refuse(TTP_INVALID_ARGUMENT, "activation is none of TTP_ACT_*");
        }
        const Tensor& x = mesh.tensor(a);
        const Tensor& y = mesh.tensor(b);
        const tt::stl::Span<const EltwiseUnaryWithParam> none;
        switch (operation) {
            case TTP_ADD:
                return ttnn::add(x, y, to_dtype(format), dram, std::nullopt, none, left, none);
            case TTP_SUB:
                return ttnn::subtract(x, y, to_dtype(format), dram, std::nullopt, none, left, none);
            case TTP_MUL:
                return ttnn::multiply(x, y, to_dtype(format), dram, std::nullopt, none, left, none);
            default:
                refuse(TTP_INVALID_ARGUMENT, "operation " + std::to_string(operation) +
                                                 " is none of TTP_ADD, TTP_SUB, TTP_MUL");
        }
    });
}

extern "C" ttp_status ttp_unary(ttp_tensor x, uint32_t activation, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        const Tensor& input = mesh.tensor(x);
        switch (activation) {
            case TTP_ACT_NONE:
                return copy_of(input);
            case TTP_ACT_GELU:
            case TTP_ACT_GELU_TANH:
                return ttnn::gelu(input, false, dram);
            case TTP_ACT_SILU:
                return ttnn::silu(input, dram);
            case TTP_ACT_RELU:
                return ttnn::relu(input, dram);
            default:
                activation_of(activation);
                refuse(TTP_INVALID_ARGUMENT, "activation is none of TTP_ACT_*");
        }
    });
}

extern "C" ttp_status ttp_increment(ttp_tensor x, int32_t value) {
    return on_mesh(x, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        if (value != 1) {
            refuse(TTP_UNSUPPORTED,
                   "increment by " + std::to_string(value) +
                       ": TT-NN adds one in place; shift ids by the rows of their table instead");
        }
        compat::plus_one(mesh.tensor(x));
    });
}

extern "C" ttp_status ttp_concat(const ttp_tensor* tensors, uint32_t count, uint32_t dim,
                                 ttp_tensor* out) {
    return one(tensors != nullptr && count > 0 ? tensors[0] : 0, out, [&](Mesh& mesh) {
        require(dim < 4, "concat: dimension " + std::to_string(dim) + " is not 0..3");
        std::vector<Tensor> parts;
        for (uint32_t i = 0; i < count; ++i) {
            parts.push_back(mesh.tensor(tensors[i]));
        }
        return ttnn::concat(parts, static_cast<int>(dim), dram);
    });
}

extern "C" ttp_status ttp_slice(ttp_tensor x, const uint32_t* begin, const uint32_t* end,
                                ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        require(begin != nullptr && end != nullptr, "begin or end is NULL");
        const Tensor& input = mesh.tensor(x);
        const auto dims = dims_of(input);
        std::array<uint32_t, 4> from{};
        std::array<uint32_t, 4> to{};
        for (size_t i = 0; i < 4; ++i) {
            require(begin[i] < end[i] && end[i] <= dims[i],
                    "slice: [begin, end) is not a part of the tensor");
            from[i] = begin[i];
            to[i] = end[i];
        }
        const std::array<uint32_t, 4> step{1, 1, 1, 1};
        return ttnn::slice(input, from, to, step, dram);
    });
}

extern "C" ttp_status ttp_reshape(ttp_tensor x, const uint32_t* dims, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        require(dims != nullptr, "dims is NULL");
        // May be a view: the buffer goes with the last of the two handles.
        return ttnn::reshape(mesh.tensor(x), to_shape(dims), dram);
    });
}

extern "C" ttp_status ttp_transpose(ttp_tensor x, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) { return ttnn::transpose(mesh.tensor(x), 2, 3, dram); });
}

extern "C" ttp_status ttp_convert(ttp_tensor x, uint32_t format, uint32_t layout, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        Tensor tensor = mesh.tensor(x);
        const auto dtype = to_dtype(format);
        if (to_layout(layout) == ttnn::Layout::TILE && tensor.layout() != ttnn::Layout::TILE) {
            tensor = ttnn::to_layout(tensor, ttnn::Layout::TILE, std::nullopt, dram);
        }
        if (tensor.dtype() != dtype) {
            tensor = ttnn::typecast(tensor, dtype, dram);
        }
        if (tensor.layout() != to_layout(layout)) {
            tensor = ttnn::to_layout(tensor, to_layout(layout), std::nullopt, dram);
        }
        return tensor;
    });
}

extern "C" ttp_status ttp_copy(ttp_tensor x, ttp_tensor target) {
    return on_mesh(x, TTP_INVALID_ARGUMENT,
                   [&](Mesh& mesh) { ttnn::copy(mesh.tensor(x), mesh.tensor(target)); });
}

extern "C" ttp_status ttp_argmax(ttp_tensor x, uint32_t begin, uint32_t end, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        const Tensor& input = mesh.tensor(x);
        const auto dims = dims_of(input);
        require(begin < end && end <= dims[3], "argmax: columns are not a part of the tensor");
        if (begin != 0) {
            refuse(TTP_UNSUPPORTED, "argmax from column " + std::to_string(begin) +
                                        ": TT-NN counts from the slice; slice first and shift by "
                                        "the rows of the table");
        }
        Tensor part = input;
        if (end != dims[3]) {
            const std::array<uint32_t, 4> from{0, 0, 0, 0};
            const std::array<uint32_t, 4> to{dims[0], dims[1], dims[2], end};
            const std::array<uint32_t, 4> step{1, 1, 1, 1};
            part = ttnn::slice(part, from, to, step, dram);
        }
        part = ttnn::to_layout(part, ttnn::Layout::ROW_MAJOR, std::nullopt, dram);
        const Tensor found = compat::argmax(part, dram);
        return reshaped(found, shape(1, 1, 1, dims[2]));
    });
}

extern "C" ttp_status ttp_all_gather(ttp_tensor x, uint32_t dim, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        if (mesh.chips == 1) {
            return copy_of(mesh.tensor(x));
        }
        return compat::all_gather(mesh.tensor(x), static_cast<int32_t>(dim), 1, dram,
                                  links(mesh), topology(mesh));
    });
}

extern "C" ttp_status ttp_reduce_scatter(ttp_tensor x, uint32_t dim, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        if (mesh.chips == 1) {
            return copy_of(mesh.tensor(x));
        }
        return ttnn::reduce_scatter(mesh.tensor(x), static_cast<int32_t>(dim), 1, std::nullopt,
                                    dram, dram, std::nullopt, links(mesh), topology(mesh));
    });
}

extern "C" ttp_status ttp_all_reduce(ttp_tensor x, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        if (mesh.chips == 1) {
            return copy_of(mesh.tensor(x));
        }
        return ttnn::all_reduce(mesh.tensor(x), 1, std::nullopt, dram, links(mesh), topology(mesh));
    });
}

extern "C" ttp_status ttp_partition(ttp_tensor x, uint32_t dim, ttp_tensor* out) {
    return one(x, out, [&](Mesh& mesh) {
        if (mesh.chips == 1) {
            return copy_of(mesh.tensor(x));
        }
        return ttnn::mesh_partition(mesh.tensor(x), static_cast<int32_t>(dim), 1, dram);
    });
}

extern "C" ttp_status ttp_run_program(const ttp_tensor* tensors, uint32_t count,
                                      const ttp_program* program) {
    return on_mesh(
        tensors != nullptr && count > 0 ? tensors[0] : 0, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
            require(program != nullptr, "program is NULL");
            require(count >= 2, "a program needs an input and an output");
            std::vector<Tensor> io;
            for (uint32_t i = 0; i < count; ++i) {
                io.push_back(mesh.tensor(tensors[i]));
            }
            tt::tt_metal::ProgramDescriptor descriptor;
            for (uint32_t i = 0; i < program->kernel_count; ++i) {
                const ttp_kernel& kernel = program->kernels[i];
                tt::tt_metal::KernelDescriptor made;
                made.kernel_source = kernel.source;
                made.source_type = tt::tt_metal::KernelDescriptor::SourceType::SOURCE_CODE;
                made.core_ranges = cores_of(kernel.cores);
                made.compile_time_args.assign(kernel.compile_args,
                                              kernel.compile_args + kernel.compile_arg_count);
                for (uint32_t a = 0; a < kernel.accessor_count; ++a) {
                    require(kernel.accessors[a] < count,
                            std::string(kernel.name) + ": an accessor names no tensor");
                    tt::tt_metal::TensorAccessorArgs(*io[kernel.accessors[a]].buffer())
                        .append_to(made.compile_time_args);
                }
                uint32_t core = 0;
                for (uint32_t y = kernel.cores.y0; y <= kernel.cores.y1; ++y) {
                    for (uint32_t x = kernel.cores.x0; x <= kernel.cores.x1; ++x, ++core) {
                        const uint32_t* first = kernel.runtime_args + static_cast<size_t>(core) *
                                                                          kernel.runtime_arg_count;
                        made.runtime_args.emplace_back(
                            CoreCoord(x, y),
                            std::vector<uint32_t>(first, first + kernel.runtime_arg_count));
                    }
                }
                switch (kernel.role) {
                    case TTP_ROLE_READER:
                        made.config = tt::tt_metal::ReaderConfigDescriptor{};
                        break;
                    case TTP_ROLE_WRITER:
                        made.config = tt::tt_metal::WriterConfigDescriptor{};
                        break;
                    case TTP_ROLE_COMPUTE: {
                        const auto config = compute_of(&kernel.compute);
                        tt::tt_metal::ComputeConfigDescriptor compute{};
                        compute.math_fidelity = config.math_fidelity;
                        compute.fp32_dest_acc_en = config.fp32_dest_acc_en;
                        compute.bfp8_pack_precise = true;
                        compute.math_approx_mode = config.math_approx_mode;
                        made.config = compute;
                        break;
                    }
                    default:
                        refuse(TTP_INVALID_ARGUMENT,
                               "role " + std::to_string(kernel.role) + " is none of TTP_ROLE_*");
                }
                descriptor.kernels.push_back(std::move(made));
            }
            for (uint32_t i = 0; i < program->buffer_count; ++i) {
                const ttp_circular_buffer& buffer = program->buffers[i];
                tt::tt_metal::CBDescriptor made;
                made.total_size = buffer.page_bytes * buffer.pages;
                made.core_ranges = cores_of(buffer.cores);
                tt::tt_metal::CBFormatDescriptor format;
                format.buffer_index = static_cast<uint8_t>(buffer.index);
                format.data_format = data_format(buffer.format);
                format.page_size = buffer.page_bytes;
                made.format_descriptors.push_back(format);
                descriptor.cbs.push_back(std::move(made));
            }
            for (uint32_t i = 0; i < program->semaphore_count; ++i) {
                const ttp_semaphore& semaphore = program->semaphores[i];
                tt::tt_metal::SemaphoreDescriptor made;
                made.id = semaphore.id;
                made.core_ranges = cores_of(semaphore.cores);
                made.initial_value = semaphore.initial;
                descriptor.semaphores.push_back(std::move(made));
            }
            ttnn::generic_op(io, descriptor);
        });
}
