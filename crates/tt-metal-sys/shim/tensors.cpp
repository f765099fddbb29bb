// Tensors: from host arrays, packed or not, to the chips and back.
#include <bit>
#include <cstring>
#include <limits>

#include <tt-metalium/bfloat16.hpp>
#include <tt-metalium/bfloat4.hpp>
#include <tt-metalium/bfloat8.hpp>
#include <tt-metalium/host_buffer.hpp>

#include "compat.hpp"
#include "shim.hpp"
#include "ttnn/distributed/api.hpp"
#include "ttnn/distributed/distributed_tensor.hpp"
#include "ttnn/tensor/tensor_ops.hpp"

namespace shim {

using ttnn::DataType;

namespace {

constexpr uint32_t tile_side = 32;
constexpr uint32_t face_side = 16;

uint64_t volume(const uint32_t* dims) {
    uint64_t product = 1;
    for (int i = 0; i < 4; ++i) {
        require(dims[i] != 0 && product <= (uint64_t{1} << 40) / dims[i],
                "a shape is empty or larger than any chip");
        product *= dims[i];
    }
    return product;
}

uint32_t element_bytes(uint32_t format) {
    switch (format) {
        case TTP_FORMAT_F32:
        case TTP_FORMAT_U32:
        case TTP_FORMAT_I32:
            return 4;
        case TTP_FORMAT_BF16:
            return 2;
        case TTP_FORMAT_U8:
            return 1;
        default:
            refuse(TTP_INVALID_ARGUMENT,
                   "format " + std::to_string(format) + " has no row-major elements");
    }
}

bool is_float(uint32_t format) { return format <= TTP_FORMAT_BFP4_B; }

// Ties to even, as PyTorch.
uint16_t to_bf16(float value) {
    uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return static_cast<uint16_t>((bits >> 16) | 0x40u);
    }
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

std::vector<float> as_floats(const ttp_host& host) {
    const uint64_t count = volume(host.dims);
    std::vector<float> values(count);
    if (host.format == TTP_FORMAT_F32) {
        std::memcpy(values.data(), host.data, count * 4);
    } else {
        const auto* words = static_cast<const uint8_t*>(host.data);
        for (uint64_t i = 0; i < count; ++i) {
            uint16_t word;
            std::memcpy(&word, words + 2 * i, 2);
            values[i] = from_bf16(word);
        }
    }
    return values;
}

std::vector<bfloat16> as_bf16(const ttp_host& host) {
    const uint64_t count = volume(host.dims);
    std::vector<bfloat16> values(count);
    static_assert(sizeof(bfloat16) == 2);
    if (host.format == TTP_FORMAT_BF16) {
        std::memcpy(values.data(), host.data, count * 2);
    } else {
        const auto* floats = static_cast<const float*>(host.data);
        for (uint64_t i = 0; i < count; ++i) {
            values[i] = std::bit_cast<bfloat16>(to_bf16(floats[i]));
        }
    }
    return values;
}

void shard_dims(const uint32_t* dims, const ttp_distribution& distribution, uint32_t chips,
                uint32_t* out) {
    std::memcpy(out, dims, 4 * sizeof(uint32_t));
    if (distribution.kind == TTP_SHARD) {
        require(distribution.dim < 4,
                "shard dimension " + std::to_string(distribution.dim) + " is not 0..3");
        require(chips > 0 && dims[distribution.dim] % chips == 0,
                "dimension " + std::to_string(distribution.dim) + " does not split over " +
                    std::to_string(chips) + " chips; pad it");
        out[distribution.dim] /= chips;
    } else {
        require(distribution.kind == TTP_REPLICATE,
                "distribution is neither TTP_REPLICATE nor TTP_SHARD");
    }
}

uint64_t tiles_of(const uint32_t* dims) {
    return uint64_t{dims[0]} * dims[1] * ((dims[2] + tile_side - 1) / tile_side) *
           ((dims[3] + tile_side - 1) / tile_side);
}

uint32_t tile_bytes(uint32_t format) {
    switch (format) {
        case TTP_FORMAT_BFP8_B:
            return 1088;
        case TTP_FORMAT_BFP4_B:
            return 576;
        default:
            return element_bytes(format) * tile_side * tile_side;
    }
}

// One shard's tiles; within a tile the four faces one after another.
std::vector<float> to_tiles(const std::vector<float>& whole, const uint32_t* dims,
                            const uint32_t* shard, const uint32_t* begin) {
    std::vector<float> out;
    out.reserve(tiles_of(shard) * tile_side * tile_side);
    for (uint32_t a = 0; a < shard[0]; ++a) {
        for (uint32_t b = 0; b < shard[1]; ++b) {
            for (uint32_t top = 0; top < shard[2]; top += tile_side) {
                for (uint32_t left = 0; left < shard[3]; left += tile_side) {
                    for (uint32_t position = 0; position < tile_side * tile_side; ++position) {
                        const uint32_t face = position / (face_side * face_side);
                        const uint32_t row =
                            top + face / 2 * face_side + position / face_side % face_side;
                        const uint32_t column = left + face % 2 * face_side + position % face_side;
                        if (row >= shard[2] || column >= shard[3]) {
                            out.push_back(0.0f);
                            continue;
                        }
                        const uint64_t plane = uint64_t{a + begin[0]} * dims[1] + b + begin[1];
                        out.push_back(whole[(plane * dims[2] + row + begin[2]) * dims[3] + column +
                                            begin[3]]);
                    }
                }
            }
        }
    }
    return out;
}

ttnn::TensorSpec spec_of(const uint32_t* dims, uint32_t format, uint32_t layout) {
    const bool block = format == TTP_FORMAT_BFP8_B || format == TTP_FORMAT_BFP4_B;
    require(!block || layout == TTP_LAYOUT_TILE,
            "block formats exist only in tiles; use TTP_LAYOUT_TILE or BF16");
    volume(dims);
    return ttnn::TensorSpec(
        to_shape(dims),
        tt::tt_metal::TensorLayout(to_dtype(format), tt::tt_metal::PageConfig(to_layout(layout)),
                                   ttnn::DRAM_MEMORY_CONFIG));
}

// A packed shard as a host tensor: its words are already in device order.
Tensor packed_shard(const uint8_t* bytes, uint64_t length, const ttnn::TensorSpec& spec,
                    uint32_t format) {
    if (format == TTP_FORMAT_BF16) {
        std::vector<bfloat16> words(length / 2);
        std::memcpy(words.data(), bytes, length);
        return Tensor(tt::tt_metal::HostBuffer(std::move(words)), spec);
    }
    if (format == TTP_FORMAT_F32) {
        std::vector<float> words(length / 4);
        std::memcpy(words.data(), bytes, length);
        return Tensor(tt::tt_metal::HostBuffer(std::move(words)), spec);
    }
    std::vector<uint32_t> words(length / 4);
    std::memcpy(words.data(), bytes, length);
    return Tensor(tt::tt_metal::HostBuffer(std::move(words)), spec);
}

template <typename T>
Tensor distribute(Mesh& mesh, const std::vector<T>& values, const ttp_host& host,
                  const ttp_distribution& distribution, const ttnn::TensorSpec& spec) {
    auto mapper = distribution.kind == TTP_SHARD
                      ? ttnn::distributed::shard_tensor_to_mesh_mapper(
                            *mesh.device, static_cast<int>(distribution.dim))
                      : ttnn::distributed::replicate_tensor_to_mesh_mapper(*mesh.device);
    return ttnn::distributed::create_distributed_tensor<T>(
        tt::stl::Span<const T>(values.data(), values.size()), to_shape(host.dims),
        spec.tensor_layout(), *mapper);
}

// On the host, over the mesh.
Tensor host_tensor(Mesh& mesh, const ttp_host& host, const ttp_distribution& distribution,
                   uint32_t format, uint32_t layout) {
    uint32_t shard[4];
    shard_dims(host.dims, distribution, mesh.chips, shard);
    const auto spec = spec_of(shard, format, layout);
    const uint32_t parts = distribution.kind == TTP_SHARD ? mesh.chips : 1;
    if (host.layout == TTP_LAYOUT_TILE) {
        require(host.format == format && layout == TTP_LAYOUT_TILE,
                "a packed array must be packed for the tensor's format");
        const uint64_t length = tiles_of(shard) * tile_bytes(format);
        require(host.bytes == length * parts,
                "a packed array of " + std::to_string(length * parts) + " bytes is needed, not " +
                    std::to_string(host.bytes));
        require(is_float(format), "only float formats are packed");
        std::vector<Tensor> shards;
        for (uint32_t chip = 0; chip < mesh.chips; ++chip) {
            const auto* start =
                static_cast<const uint8_t*>(host.data) + (parts == 1 ? 0 : chip * length);
            shards.push_back(packed_shard(start, length, spec, format));
        }
        return ttnn::distributed::from_host_shards(
            shards, mesh.device->shape(),
            distribution.kind == TTP_SHARD ? static_cast<int>(distribution.dim) : 0);
    }
    require(host.layout == TTP_LAYOUT_ROW_MAJOR, "host layout is none of TTP_LAYOUT_*");
    const uint64_t expected = volume(host.dims) * element_bytes(host.format);
    require(host.bytes == expected, "a host array of this shape has " + std::to_string(expected) +
                                        " bytes, not " + std::to_string(host.bytes));
    if (is_float(format)) {
        require(host.format == TTP_FORMAT_F32 || host.format == TTP_FORMAT_BF16,
                "a float tensor is made from F32 or BF16");
        if (format == TTP_FORMAT_BF16) {
            return distribute(mesh, as_bf16(host), host, distribution, spec);
        }
        return distribute(mesh, as_floats(host), host, distribution, spec);
    }
    require(host.format == format, "an integer tensor is made from its own format");
    const uint64_t count = volume(host.dims);
    const auto copy = [&](auto zero) {
        std::vector<decltype(zero)> values(count);
        std::memcpy(values.data(), host.data, count * sizeof zero);
        return distribute(mesh, values, host, distribution, spec);
    };
    switch (format) {
        case TTP_FORMAT_U32:
            return copy(uint32_t{});
        case TTP_FORMAT_I32:
            return copy(int32_t{});
        default:
            return copy(uint8_t{});
    }
}

void check_host(const ttp_host* host, const ttp_distribution* distribution) {
    require(host != nullptr && host->data != nullptr && distribution != nullptr,
            "host, its data or distribution is NULL");
}

template <typename T>
void read_as(const Tensor& shard, uint32_t format, void* data, uint64_t bytes, uint64_t count) {
    const std::vector<T> values = shard.to_vector<T>();
    require(values.size() == count && bytes == count * element_bytes(format),
            "reading takes " + std::to_string(count * element_bytes(format)) + " bytes, not " +
                std::to_string(bytes));
    if constexpr (std::is_same_v<T, bfloat16>) {
        const auto* raw = reinterpret_cast<const uint16_t*>(values.data());
        for (uint64_t i = 0; i < count; ++i) {
            if (format == TTP_FORMAT_BF16) {
                static_cast<uint16_t*>(data)[i] = raw[i];
            } else {
                static_cast<float*>(data)[i] = from_bf16(raw[i]);
            }
        }
    } else if constexpr (std::is_same_v<T, float>) {
        for (uint64_t i = 0; i < count; ++i) {
            if (format == TTP_FORMAT_BF16) {
                static_cast<uint16_t*>(data)[i] = to_bf16(values[i]);
            } else {
                static_cast<float*>(data)[i] = values[i];
            }
        }
    } else {
        std::memcpy(data, values.data(), bytes);
    }
}

}  // namespace

DataType to_dtype(uint32_t format) {
    switch (format) {
        case TTP_FORMAT_F32:
            return DataType::FLOAT32;
        case TTP_FORMAT_BF16:
            return DataType::BFLOAT16;
        case TTP_FORMAT_BFP8_B:
            return DataType::BFLOAT8_B;
        case TTP_FORMAT_BFP4_B:
            return DataType::BFLOAT4_B;
        case TTP_FORMAT_U32:
            return DataType::UINT32;
        case TTP_FORMAT_I32:
            return DataType::INT32;
        case TTP_FORMAT_U8:
            return DataType::UINT8;
        default:
            refuse(TTP_INVALID_ARGUMENT,
                   "format " + std::to_string(format) + " is none of TTP_FORMAT_*");
    }
}

uint32_t from_dtype(DataType dtype) {
    switch (dtype) {
        case DataType::FLOAT32:
            return TTP_FORMAT_F32;
        case DataType::BFLOAT16:
            return TTP_FORMAT_BF16;
        case DataType::BFLOAT8_B:
            return TTP_FORMAT_BFP8_B;
        case DataType::BFLOAT4_B:
            return TTP_FORMAT_BFP4_B;
        case DataType::UINT32:
            return TTP_FORMAT_U32;
        case DataType::INT32:
            return TTP_FORMAT_I32;
        case DataType::UINT8:
            return TTP_FORMAT_U8;
        default:
            refuse(TTP_INTERNAL, "TT-NN gave a tensor of a format that the ABI does not have");
    }
}

ttnn::Layout to_layout(uint32_t layout) {
    require(layout == TTP_LAYOUT_ROW_MAJOR || layout == TTP_LAYOUT_TILE,
            "layout " + std::to_string(layout) + " is none of TTP_LAYOUT_*");
    return layout == TTP_LAYOUT_TILE ? ttnn::Layout::TILE : ttnn::Layout::ROW_MAJOR;
}

ttnn::Shape to_shape(const uint32_t* dims) {
    return ttnn::Shape({dims[0], dims[1], dims[2], dims[3]});
}

std::vector<uint32_t> dims_of(const Tensor& tensor) {
    const auto& shape = tensor.logical_shape();
    std::vector<uint32_t> dims(4, 1);
    require(shape.rank() <= 4, "TT-NN gave a tensor of more than four dimensions");
    for (size_t i = 0; i < shape.rank(); ++i) {
        dims[4 - shape.rank() + i] = shape[static_cast<int32_t>(i)];
    }
    return dims;
}

Tensor upload(Mesh& mesh, const ttp_host& host, const ttp_distribution& distribution,
              uint32_t format, uint32_t layout) {
    return host_tensor(mesh, host, distribution, format, layout)
        .to_device(mesh.device.get(), ttnn::DRAM_MEMORY_CONFIG);
}

}  // namespace shim

using namespace shim;

extern "C" ttp_status ttp_tensor_create(ttp_mesh handle, const ttp_spec* spec, uint32_t zeroed,
                                        ttp_tensor* out) {
    return on_mesh(handle, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        require(spec != nullptr && out != nullptr, "spec or out is NULL");
        mesh.not_while_capturing("creating a tensor");
        if (zeroed == 0) {
            *out = mesh.add(compat::create_device_tensor(
                spec_of(spec->dims, spec->format, spec->layout), mesh.device.get()));
            return;
        }
        const uint32_t source =
            is_float(spec->format) ? static_cast<uint32_t>(TTP_FORMAT_F32) : spec->format;
        const std::vector<uint8_t> zeros(volume(spec->dims) * element_bytes(source), 0);
        ttp_host host{zeros.data(),
                      zeros.size(),
                      {spec->dims[0], spec->dims[1], spec->dims[2], spec->dims[3]},
                      source,
                      TTP_LAYOUT_ROW_MAJOR};
        *out = mesh.add(upload(mesh, host, {TTP_REPLICATE, 0}, spec->format, spec->layout));
    });
}

extern "C" ttp_status ttp_tensor_upload(ttp_mesh handle, const ttp_host* host,
                                        const ttp_distribution* distribution, uint32_t format,
                                        uint32_t layout, ttp_tensor* out) {
    return on_mesh(handle, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        check_host(host, distribution);
        require(out != nullptr, "out is NULL");
        mesh.not_while_capturing("uploading a tensor");
        *out = mesh.add(upload(mesh, *host, *distribution, format, layout));
    });
}

extern "C" ttp_status ttp_tensor_write(ttp_tensor handle, const ttp_host* host,
                                       const ttp_distribution* distribution) {
    return on_mesh(handle, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        check_host(host, distribution);
        mesh.not_while_capturing("writing a tensor");
        Tensor& tensor = mesh.tensor(handle);
        const uint32_t layout =
            tensor.layout() == ttnn::Layout::TILE ? TTP_LAYOUT_TILE : TTP_LAYOUT_ROW_MAJOR;
        const Tensor source =
            host_tensor(mesh, *host, *distribution, from_dtype(tensor.dtype()), layout);
        require(source.logical_shape() == tensor.logical_shape(),
                "the array's part of a chip has another shape than the tensor");
        compat::copy_to_device(source, tensor);
    });
}

extern "C" ttp_status ttp_tensor_read(ttp_tensor handle, uint32_t chip, uint32_t format, void* data,
                                      uint64_t bytes) {
    return on_mesh(handle, TTP_INVALID_ARGUMENT, [&](Mesh& mesh) {
        require(data != nullptr, "data is NULL");
        mesh.not_while_capturing("reading a tensor");
        require(chip < mesh.chips, "chip " + std::to_string(chip) +
                                       " does not exist: the mesh has " +
                                       std::to_string(mesh.chips));
        const Tensor& tensor = mesh.tensor(handle);
        const uint32_t held = from_dtype(tensor.dtype());
        const bool floats =
            is_float(held) && (format == TTP_FORMAT_F32 || format == TTP_FORMAT_BF16);
        require(floats || held == format, "the tensor cannot be read in this format");
        const Tensor shard = ttnn::distributed::get_device_tensors(tensor).at(chip);
        const uint64_t count = tensor.logical_volume();
        switch (held) {
            case TTP_FORMAT_BF16:
                read_as<bfloat16>(shard, format, data, bytes, count);
                break;
            case TTP_FORMAT_U32:
                read_as<uint32_t>(shard, format, data, bytes, count);
                break;
            case TTP_FORMAT_I32:
                read_as<int32_t>(shard, format, data, bytes, count);
                break;
            case TTP_FORMAT_U8:
                read_as<uint8_t>(shard, format, data, bytes, count);
                break;
            default:
                read_as<float>(shard, format, data, bytes, count);
        }
    });
}

extern "C" ttp_status ttp_tensor_describe(ttp_tensor handle, ttp_spec* out) {
    return on_mesh(handle, TTP_INTERNAL, [&](Mesh& mesh) {
        require(out != nullptr, "out is NULL");
        const Tensor& tensor = mesh.tensor(handle);
        const auto dims = dims_of(tensor);
        std::memcpy(out->dims, dims.data(), sizeof out->dims);
        out->format = from_dtype(tensor.dtype());
        out->layout =
            tensor.layout() == ttnn::Layout::TILE ? TTP_LAYOUT_TILE : TTP_LAYOUT_ROW_MAJOR;
    });
}

extern "C" ttp_status ttp_tensor_address(ttp_tensor handle, uint32_t* out) {
    return on_mesh(handle, TTP_INTERNAL, [&](Mesh& mesh) {
        require(out != nullptr, "out is NULL");
        *out = static_cast<uint32_t>(mesh.tensor(handle).mesh_buffer()->address());
    });
}

extern "C" ttp_status ttp_tensor_free(ttp_tensor handle) {
    return on_mesh(handle, TTP_DEVICE, [&](Mesh& mesh) {
        // Views made from it inside an operation are gone by now: the buffer goes with the last
        // reference.
        mesh.tensor(handle);
        mesh.tensors.erase(handle);
    });
}

extern "C" ttp_status ttp_pack(const ttp_host* host, const ttp_distribution* distribution,
                               uint32_t chips, uint32_t format, void* data, uint64_t bytes,
                               uint64_t* needed) {
    return guard(TTP_INVALID_ARGUMENT, [&] {
        require(host != nullptr && distribution != nullptr && needed != nullptr,
                "host, distribution or needed is NULL");
        require(host->layout == TTP_LAYOUT_ROW_MAJOR &&
                    (host->format == TTP_FORMAT_F32 || host->format == TTP_FORMAT_BF16),
                "only a row-major array of F32 or BF16 can be packed");
        require(is_float(format), "only float formats are packed");
        require(chips >= 1 && chips <= 32, std::to_string(chips) + " chips: there are 1, 2 or 8");
        uint32_t shard[4];
        shard_dims(host->dims, *distribution, chips, shard);
        const uint32_t parts = distribution->kind == TTP_SHARD ? chips : 1;
        volume(host->dims);
        const uint64_t length = tiles_of(shard) * tile_bytes(format);
        if (data != nullptr) {
            require(bytes == length * parts, "packing takes " + std::to_string(length * parts) +
                                                 " bytes, not " + std::to_string(bytes));
            require(host->data != nullptr &&
                        host->bytes == volume(host->dims) * element_bytes(host->format),
                    "the host array has the wrong length");
            const std::vector<float> whole = as_floats(*host);
            for (uint32_t part = 0; part < parts; ++part) {
                uint32_t begin[4] = {0, 0, 0, 0};
                if (parts > 1) {
                    begin[distribution->dim] = part * shard[distribution->dim];
                }
                const std::vector<float> tiles = to_tiles(whole, host->dims, shard, begin);
                auto* out = static_cast<uint8_t*>(data) + part * length;
                if (format == TTP_FORMAT_F32) {
                    std::memcpy(out, tiles.data(), length);
                } else if (format == TTP_FORMAT_BF16) {
                    for (size_t i = 0; i < tiles.size(); ++i) {
                        const uint16_t word = to_bf16(tiles[i]);
                        std::memcpy(out + 2 * i, &word, 2);
                    }
                } else {
                    const tt::stl::Span<const float> span(tiles.data(), tiles.size());
                    const auto words = format == TTP_FORMAT_BFP8_B
                                           ? pack_as_bfp8_tiles<float>(span, false, false)
                                           : pack_as_bfp4_tiles<float>(span, false, false);
                    require(words.size() * 4 == length, "TT-NN packed another length");
                    std::memcpy(out, words.data(), length);
                }
            }
        }
        *needed = length * parts;
    });
}
