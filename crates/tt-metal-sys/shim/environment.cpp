#include "environment.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

namespace shim {

namespace {

constexpr const char* root_name = "TT_METAL_RUNTIME_ROOT";
constexpr const char* timeout_name = "TT_METAL_OPERATION_TIMEOUT_SECONDS";
// Without one a chip that hangs blocks the calling thread for ever. It counts from the last
// progress of the device's dispatcher, not while kernels are compiled.
constexpr const char* timeout_default = "30";
// The compiler's place in an SFPI folder.
constexpr const char* compiler = "/compiler/bin/riscv-tt-elf-g++";

// A variable's value; empty when it is unset.
std::string value_of(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

bool is_folder(const std::string& path) {
    struct stat status{};
    return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool is_program(const std::string& path) {
    struct stat status{};
    return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
           access(path.c_str(), X_OK) == 0;
}

bool is_seconds(const std::string& text) {
    char* end = nullptr;
    const double seconds = std::strtod(text.c_str(), &end);
    return end != text.c_str() && *end == '\0' && std::isfinite(seconds) && seconds >= 0.0;
}

}  // namespace

std::string prepare_environment(const Installation& installation) {
    std::vector<std::pair<const char*, std::string>> missing;

    // TT-NN itself would look into the working directory next, which `ros2 launch` chooses.
    std::string root = value_of(root_name);
    if (root.empty()) {
        root = installation.runtime_root;
        if (root.empty() || !is_folder(root + "/tt_metal")) {
            return std::string(root_name) + " is not set, and " +
                   (root.empty() ? "this provider was built without a tt-metal folder"
                                 : root + ", where tt-metal was when this provider was built, "
                                          "holds no tt_metal/") +
                   ": set it to the tt-metal tree, or the wheel's ttnn folder, of the commit that "
                   "this provider was built for";
        }
        missing.emplace_back(root_name, root);
    } else if (!is_folder(root + "/tt_metal")) {
        return std::string(root_name) + "=" + root +
               " holds no tt_metal/: set it to the tt-metal tree, or the wheel's ttnn folder, of "
               "the commit that this provider was built for";
    }

    // A mock cluster compiles no kernels.
    if (value_of("TT_METAL_MOCK_CLUSTER_DESC_PATH").empty()) {
        const std::string own = root + "/runtime/sfpi";
        const std::string installed = installation.system_root + "/opt/tenstorrent/sfpi";
        // TT-NN takes the first that exists.
        if (!is_program(own + compiler) && !is_program(installed + compiler)) {
            return "no SFPI compiler: neither " + own + compiler + " nor " + installed + compiler +
                   " is a program; install the SFPI package of the version in tt_metal/sfpi-version"
                   ", or set " +
                   root_name + " (now " + root + ") to the tree that has it";
        }
    }

    const std::string seconds = value_of(timeout_name);
    if (seconds.empty()) {
        missing.emplace_back(timeout_name, timeout_default);
    } else if (!is_seconds(seconds)) {
        return std::string(timeout_name) + "=" + seconds +
               " is not a number of seconds: set it to 30, to 0 for no limit, or unset it";
    }

    // tt-logger knows "warn", not "warning", and takes an unknown word for info. It writes to
    // stdout; the programs of this project keep theirs for their own output.
    if (value_of("TT_LOGGER_LEVEL").empty() && value_of("TT_METAL_LOGGER_LEVEL").empty()) {
        missing.emplace_back("TT_LOGGER_LEVEL", "warn");
    }

    for (const auto& [name, value] : missing) {
        if (setenv(name, value.c_str(), 1) != 0) {
            return std::string("cannot set ") + name + "=" + value + " for TT-NN: out of memory";
        }
    }
    return "";
}

}  // namespace shim
