// Calls shim/environment.cpp with the folders of its arguments and prints what came of it.
#include <cstdio>
#include <cstdlib>

#include "../shim/environment.hpp"

int main(int count, char** arguments) {
    if (count != 3) {
        return 2;
    }
    const std::string problem = shim::prepare_environment({arguments[1], arguments[2]});
    std::printf("problem=%s\n", problem.c_str());
    for (const char* name : {"TT_METAL_RUNTIME_ROOT", "TT_METAL_OPERATION_TIMEOUT_SECONDS",
                             "TT_LOGGER_LEVEL", "TT_METAL_LOGGER_LEVEL"}) {
        const char* value = std::getenv(name);
        std::printf("%s=%s\n", name, value == nullptr ? "(unset)" : value);
    }
    return 0;
}
