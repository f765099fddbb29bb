// Operations of a decode layer whose heads are rows. [1, 1, heads, width] is one row of tiles, that
// TT-NN keeps in the L1 of one core between its operations for decoding.
#include "shim.hpp"
#include "ttnn/operations/core/core.hpp"
#include "ttnn/operations/experimental/paged_cache/paged_cache.hpp"
#include "ttnn/operations/experimental/transformer/nlp_create_qkv_heads_decode/nlp_create_qkv_heads_decode.hpp"

using namespace shim;

namespace {

// Heads of a row on one core, padded to a tile's 32 rows.
tt::tt_metal::MemoryConfig on_core(const CoreCoord& core, uint32_t width) {
    const tt::tt_metal::CoreRangeSet cores(CoreRange(core, core));
    const tt::tt_metal::ShardSpec shard(cores, {32, width},
                                        tt::tt_metal::ShardOrientation::ROW_MAJOR);
    return tt::tt_metal::MemoryConfig(tt::tt_metal::TensorMemoryLayout::HEIGHT_SHARDED,
                                      tt::tt_metal::BufferType::L1, shard);
}

Tensor placed(const Tensor& row, const CoreCoord& core) {
    const auto config = on_core(core, dims_of(row)[3]);
    return row.memory_config() == config ? row : ttnn::to_memory_config(row, config, std::nullopt);
}

}  // namespace

extern "C" ttp_status ttp_split_heads_decode(ttp_tensor qkv, uint32_t q_heads, uint32_t kv_heads,
                                             ttp_tensor* q, ttp_tensor* k, ttp_tensor* v) {
    return on_mesh(qkv, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        require(q != nullptr && k != nullptr && v != nullptr, "a pointer for a result is NULL");
        const Tensor& row = mesh.tensor(qkv);
        const auto dims = dims_of(row);
        const uint32_t heads = q_heads + 2 * kv_heads;
        require(heads > 0 && dims[3] % heads == 0 && dims[3] / heads % 32 == 0,
                "split_heads_decode: " + std::to_string(dims[3]) + " columns in " +
                    std::to_string(heads) +
                    " heads do not fill whole tiles; pad each head with zeros in the weights");
        // TT-NN takes several rows as users, and would give out a tensor of another shape.
        require(dims[0] == 1 && dims[1] == 1 && dims[2] == 1,
                "split_heads_decode: " + std::to_string(dims[2]) + " rows; one is needed");
        std::optional<std::array<Tensor, 3>> none;
        auto [query, key, value] = ttnn::experimental::nlp_create_qkv_heads_decode(
            row, q_heads, kv_heads, none, true, std::nullopt, std::nullopt,
            on_core(CoreCoord(0, 0), dims[3] / heads));
        *q = mesh.add(std::move(query));
        *k = mesh.add(std::move(key));
        *v = mesh.add(std::move(value));
    });
}

extern "C" ttp_status ttp_cache_update_pair(ttp_tensor k_cache, ttp_tensor v_cache, ttp_tensor k,
                                            ttp_tensor v, ttp_tensor position) {
    return on_mesh(k_cache, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        require(k_cache != v_cache, "cache_update_pair: keys and values are the same cache");
        // TT-NN wants keys and values on different cores.
        const Tensor key = placed(mesh.tensor(k), CoreCoord(0, 0));
        const Tensor value = placed(mesh.tensor(v), CoreCoord(1, 0));
        const Tensor at = ttnn::reshape(mesh.tensor(position), ttnn::Shape({1}),
                                        ttnn::DRAM_MEMORY_CONFIG);
        ttnn::experimental::paged_fused_update_cache(
            mesh.tensor(k_cache), key, mesh.tensor(v_cache), value, std::vector<uint32_t>{}, at,
            std::nullopt, std::nullopt, 0, std::nullopt, std::nullopt);
    });
}
