// Opening, closing and describing meshes; error texts; traces.
#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include <tt-metalium/allocator.hpp>
#include <tt-metalium/buffer_types.hpp>
#include <tt-metalium/cluster.hpp>
#include <tt-metalium/distributed.hpp>
#include <tt-metalium/experimental/fabric/fabric.hpp>

#include "environment.hpp"
#include "shim.hpp"
#include "ttnn/distributed/api.hpp"

namespace shim {

namespace {

thread_local std::string last_error;

std::mutex meshes_lock;
std::unordered_map<uint64_t, std::shared_ptr<Mesh>> meshes;
uint64_t next_mesh = 1;

std::string hex(uint64_t value) {
    char text[32];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
    return text;
}

// TT-NN's exceptions carry a back trace over many lines; the first part says what happened.
std::string one_line(const char* what) {
    std::string text(what);
    if (auto trace = text.find("backtrace:"); trace != std::string::npos) {
        text.resize(trace);
    }
    std::string line;
    for (char c : text) {
        const bool space = c == '\n' || c == '\r' || c == '\t' || c == ' ';
        if (!space) {
            line += c;
        } else if (!line.empty() && line.back() != ' ') {
            line += ' ';
        }
    }
    while (!line.empty() && line.back() == ' ') {
        line.pop_back();
    }
    return line;
}

// The headers that this file was compiled with fit one build of TT-NN only.
void check_library() {
    struct Found {
        std::string path;
    } found;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            if (info->dlpi_name != nullptr &&
                std::strstr(info->dlpi_name, "_ttnncpp.so") != nullptr) {
                static_cast<Found*>(data)->path = info->dlpi_name;
                return 1;
            }
            return 0;
        },
        &found);
    struct stat status{};
    if (found.path.empty() || stat(found.path.c_str(), &status) != 0) {
        refuse(TTP_NOT_FOUND,
               "TT-NN's library _ttnncpp.so is not loaded: set LD_LIBRARY_PATH to the tt-metal "
               "build (commit " TT_SUPPORTED_COMMIT ")");
    }
    if (static_cast<uint64_t>(status.st_size) != TT_NN_LIBRARY_BYTES) {
        refuse(TTP_UNSUPPORTED, found.path + " has " + std::to_string(status.st_size) +
                                    " bytes, this provider was built for the one of " +
                                    std::to_string(TT_NN_LIBRARY_BYTES) +
                                    " bytes (tt-metal " TT_SUPPORTED_COMMIT
                                    "): rebuild it against the installed tt-metal of that commit");
    }
}

// Before TT-NN reads it, which it does once.
void require_environment() {
    const std::string problem = prepare_environment({TT_BUILT_RUNTIME_ROOT, ""});
    if (!problem.empty()) {
        refuse(TTP_NOT_FOUND, problem);
    }
}

// Whether the machine's cards are those of the board that was asked for.
void check_architecture(const Board& board, uint32_t found) {
    if (found != 0 && found != board.architecture) {
        refuse(TTP_NOT_FOUND, std::string(board.name) + " is a board of " +
                                  architecture_name(board.architecture) +
                                  " chips, this machine has " + architecture_name(found) +
                                  ": name the board that it has");
    }
}

bool mock_cluster() {
    const char* path = std::getenv("TT_METAL_MOCK_CLUSTER_DESC_PATH");
    return path != nullptr && *path != '\0';
}

}  // namespace

void remember(const std::string& text) { last_error = text; }

ttp_status translate(ttp_status otherwise) noexcept {
    try {
        try {
            throw;
        } catch (const Refusal& refusal) {
            remember(refusal.text);
            return refusal.status;
        } catch (const std::bad_alloc&) {
            remember("the host is out of memory");
            return TTP_INTERNAL;
        } catch (const std::exception& error) {
            remember(one_line(error.what()));
            return last_error.find("Out of Memory") != std::string::npos ? TTP_OUT_OF_MEMORY
                                                                         : otherwise;
        } catch (...) {
            remember("an unknown exception of TT-NN");
            return TTP_INTERNAL;
        }
    } catch (...) {
        return TTP_INTERNAL;
    }
}

std::shared_ptr<Mesh> find_mesh(uint64_t handle) {
    std::lock_guard<std::mutex> locked(meshes_lock);
    auto found = meshes.find(mesh_of(handle));
    if (found == meshes.end()) {
        refuse(TTP_BAD_HANDLE,
               "handle " + hex(handle) + ": its mesh is closed or was never opened");
    }
    return found->second;
}

uint64_t Mesh::add(Tensor tensor) {
    const uint64_t handle = id + ++next;
    tensors.emplace(handle, std::move(tensor));
    const auto& allocator = device->allocator();
    const auto type = tt::tt_metal::BufferType::DRAM;
    peak = std::max<uint64_t>(peak, allocator->get_statistics(type).total_allocated_bytes *
                                        allocator->get_num_banks(type));
    return handle;
}

Tensor& Mesh::tensor(uint64_t handle) {
    auto found = tensors.find(handle);
    if (found == tensors.end()) {
        const bool foreign = mesh_of(handle) != id;
        refuse(TTP_BAD_HANDLE, "tensor handle " + hex(handle) +
                                   (foreign ? ": it belongs to another mesh"
                                            : ": it was freed or never given out"));
    }
    return found->second;
}

void Mesh::not_while_capturing(const char* what) const {
    if (capturing) {
        refuse(TTP_TRACE_RULE, std::string(what) +
                                   " is not possible while a trace is captured: do it before "
                                   "ttp_trace_begin or after ttp_trace_end");
    }
}

}  // namespace shim

using namespace shim;
namespace fabric = tt::tt_fabric;

extern "C" uint32_t ttp_abi_version(void) { return TTP_ABI_VERSION; }
extern "C" const char* ttp_provider_name(void) { return "TT-NN of tt-metal " TT_SUPPORTED_COMMIT; }
extern "C" const char* ttp_last_error(void) { return last_error.c_str(); }

extern "C" ttp_status ttp_mesh_open(const ttp_mesh_config* config, ttp_mesh* out) {
    // What TT-NN says here is mostly that there is no such mesh on this machine.
    return guard(TTP_NOT_FOUND, [&] {
        require_environment();
        require(config != nullptr && out != nullptr, "config or out is NULL");
        require(config->struct_size == sizeof(ttp_mesh_config),
                "ttp_mesh_config of another header");
        require(config->command_queues == 1 || config->command_queues == 2,
                "a chip has 1 or 2 command queues, not " + std::to_string(config->command_queues));
        if (config->dram_limit_bytes != 0) {
            refuse(TTP_UNSUPPORTED, "dram_limit_bytes is for simulated meshes");
        }
        const Board* board = find_board(config->board);
        require(board != nullptr,
                "board " + std::to_string(config->board) + " is none of TTP_BOARD_*");
        check_library();
        std::lock_guard<std::mutex> locked(meshes_lock);
        if (!meshes.empty()) {
            refuse(TTP_UNSUPPORTED, "this process has a mesh open: close it first");
        }
        auto mesh = std::make_shared<Mesh>();
        mesh->id = next_mesh++ << mesh_shift;
        mesh->board = board;
        mesh->chips = board->chips;
        mesh->mock = mock_cluster();
        mesh->trace_region = config->trace_region_bytes;
        const auto cluster = static_cast<uint32_t>(tt::tt_metal::GetClusterType());
        check_architecture(*board, architecture_of(cluster));
        // The fabric is set before the mesh is opened. Mock clusters have no routers to start.
        if (board->chips > 1) {
            fabric::SetFabricConfig(
                board->ring ? fabric::FabricConfig::FABRIC_1D_RING
                            : fabric::FabricConfig::FABRIC_1D,
                fabric::FabricReliabilityMode::STRICT_SYSTEM_HEALTH_SETUP_MODE,
                std::nullopt, fabric::FabricTensixConfig::DISABLED, fabric::FabricUDMMode::DISABLED,
                mesh->mock ? fabric::FabricManagerMode::ENABLED
                           : fabric::FabricManagerMode::DEFAULT);
        }
        // By the machine's cards, not by the chips that are opened. The axis is TT-NN's default: a
        // row on Wormhole, a column on Blackhole.
        const auto dispatch = dispatches_over_ethernet(cluster)
                                  ? tt::tt_metal::DispatchCoreType::ETH
                                  : tt::tt_metal::DispatchCoreType::WORKER;
        mesh->device = ttnn::distributed::open_mesh_device(
            ttnn::MeshShape(1, board->chips), DEFAULT_L1_SMALL_SIZE, config->trace_region_bytes,
            config->command_queues, tt::tt_metal::DispatchCoreConfig(dispatch));
        mesh->device->enable_program_cache();
        *out = mesh->id;
        meshes.emplace(mesh->id, std::move(mesh));
    });
}

extern "C" ttp_status ttp_mesh_close(ttp_mesh handle) {
    return guard(TTP_DEVICE, [&] {
        auto mesh = find_mesh(handle);
        std::lock_guard<std::mutex> locked(mesh->lock);
        {
            std::lock_guard<std::mutex> all(meshes_lock);
            meshes.erase(mesh_of(handle));
        }
        for (auto& [_, trace] : mesh->traces) {
            ttnn::operations::trace::release_trace(mesh->device.get(), trace);
        }
        mesh->tensors.clear();
        mesh->rope_matrix.reset();
        ttnn::distributed::close_mesh_device(mesh->device);
        mesh->device.reset();
        if (mesh->chips > 1) {
            fabric::SetFabricConfig(fabric::FabricConfig::DISABLED);
        }
    });
}

extern "C" ttp_status ttp_mesh_describe(ttp_mesh handle, ttp_mesh_info* out) {
    return on_mesh(handle, TTP_DEVICE, [&](Mesh& mesh) {
        require(out != nullptr && out->struct_size == sizeof(ttp_mesh_info),
                "ttp_mesh_info is NULL or of another header: set struct_size");
        const auto grid = mesh.device->compute_with_storage_grid_size();
        const auto& allocator = mesh.device->allocator();
        const auto dram = tt::tt_metal::BufferType::DRAM;
        out->board = mesh.board->id;
        out->rows = 1;
        out->columns = mesh.chips;
        out->ring = mesh.board->ring ? 1 : 0;
        out->grid_x = static_cast<uint32_t>(grid.x);
        out->grid_y = static_cast<uint32_t>(grid.y);
        out->dram_banks = allocator->get_num_banks(dram);
        out->dram_bytes = static_cast<uint64_t>(allocator->get_bank_size(dram)) * out->dram_banks;
        out->l1_bytes = allocator->get_worker_l1_size();
        out->simulated = mesh.mock ? 1 : 0;
        out->architecture = mesh.device->arch() == tt::ARCH::BLACKHOLE ? TTP_ARCH_BLACKHOLE
                                                                       : TTP_ARCH_WORMHOLE;
        out->dram_alignment = allocator->get_alignment(dram);
        out->links = mesh.board->links;
    });
}

extern "C" ttp_status ttp_mesh_memory(ttp_mesh handle, uint32_t chip, ttp_memory* out) {
    return on_mesh(handle, TTP_DEVICE, [&](Mesh& mesh) {
        require(out != nullptr, "out is NULL");
        require(chip < mesh.chips, "chip " + std::to_string(chip) +
                                       " does not exist: the mesh has " +
                                       std::to_string(mesh.chips));
        // The chips of a mesh are filled in step; statistics are those of one bank.
        const auto& allocator = mesh.device->allocator();
        const auto dram = tt::tt_metal::BufferType::DRAM;
        const auto bank = allocator->get_statistics(dram);
        const uint64_t banks = allocator->get_num_banks(dram);
        out->total = bank.total_allocatable_size_bytes * banks;
        out->allocated = bank.total_allocated_bytes * banks;
        out->free = bank.total_free_bytes * banks;
        out->largest_free = bank.largest_free_block_bytes * banks;
        out->peak = std::max<uint64_t>(mesh.peak, out->allocated);
    });
}

extern "C" ttp_status ttp_mesh_synchronize(ttp_mesh handle) {
    return on_mesh(handle, TTP_DEVICE, [&](Mesh& mesh) {
        mesh.not_while_capturing("synchronizing");
        tt::tt_metal::distributed::Synchronize(mesh.device.get(), std::nullopt);
    });
}

extern "C" ttp_status ttp_trace_begin(ttp_mesh handle) {
    return on_mesh(handle, TTP_TRACE_RULE, [&](Mesh& mesh) {
        mesh.not_while_capturing("capturing another trace");
        if (mesh.trace_region == 0) {
            refuse(TTP_TRACE_RULE,
                   "the mesh was opened without a trace region: set trace_region_bytes");
        }
        mesh.capturing =
            ttnn::operations::trace::begin_trace_capture(mesh.device.get(), ttnn::QueueId(0));
    });
}

extern "C" ttp_status ttp_trace_end(ttp_mesh handle, ttp_trace* out) {
    return on_mesh(handle, TTP_TRACE_RULE, [&](Mesh& mesh) {
        require(out != nullptr, "out is NULL");
        if (!mesh.capturing) {
            refuse(TTP_TRACE_RULE, "no trace is being captured: call ttp_trace_begin first");
        }
        const auto trace = *mesh.capturing;
        mesh.capturing.reset();
        try {
            ttnn::operations::trace::end_trace_capture(mesh.device.get(), trace, ttnn::QueueId(0));
        } catch (const std::exception& error) {
            // TT-NN compares the sum of all traces with what is taken from every bank.
            std::string text = one_line(error.what());
            if (text.find("trace region") != std::string::npos) {
                text += "; raise trace_region_bytes, " + std::to_string(mesh.trace_region) +
                        " where this mesh was opened";
            }
            refuse(TTP_TRACE_RULE, text);
        }
        const uint64_t made = mesh.id + ++mesh.next;
        mesh.traces.emplace(made, trace);
        *out = made;
    });
}

extern "C" ttp_status ttp_trace_run(ttp_trace handle, uint32_t blocking) {
    return on_mesh(handle, TTP_DEVICE, [&](Mesh& mesh) {
        mesh.not_while_capturing("running a trace");
        auto found = mesh.traces.find(handle);
        if (found == mesh.traces.end()) {
            refuse(TTP_BAD_HANDLE,
                   "trace handle " + hex(handle) + ": it was freed or never given out");
        }
        if (mesh.mock) {
            // TT-NN would crash: there is no device to run it on.
            refuse(TTP_UNSUPPORTED, "a mock cluster cannot run traces");
        }
        ttnn::operations::trace::execute_trace(mesh.device.get(), found->second, ttnn::QueueId(0),
                                               blocking != 0);
    });
}

extern "C" ttp_status ttp_trace_free(ttp_trace handle) {
    return on_mesh(handle, TTP_DEVICE, [&](Mesh& mesh) {
        mesh.not_while_capturing("freeing a trace");
        auto found = mesh.traces.find(handle);
        if (found == mesh.traces.end()) {
            refuse(TTP_BAD_HANDLE,
                   "trace handle " + hex(handle) + ": it was freed or never given out");
        }
        ttnn::operations::trace::release_trace(mesh.device.get(), found->second);
        mesh.traces.erase(found);
    });
}
