// What TT-NN reads from the process's environment when a mesh is opened, put in order beforehand.
// Uses nothing of TT-NN, so that it is compiled and tested without it (tests/environment.rs).
#pragma once

#include <string>

namespace shim {

// Where this provider's tt-metal was when it was built, and where the machine's folders are.
struct Installation {
    // Folder that holds tt_metal/; may be empty.
    std::string runtime_root;
    // Prefix of /opt, for tests.
    std::string system_root;
};

// Sets the variables that are unset or empty and checks those that are set. Returns nothing, or in
// one line what is wrong, the variable's name and the remedy; then nothing was changed.
//
// setenv is not safe beside another thread's getenv: it is called only for variables that are
// missing, which is at the first opening.
std::string prepare_environment(const Installation& installation);

}  // namespace shim
