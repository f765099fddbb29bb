# Names and interpreters of the environments that tools/*/setup build. Sourced by the scripts that
# build an environment and by those that use one; bash and zsh.
#
# An environment is a folder named by the hash of what it is built from. A folder with a `.complete`
# file is current; when an input changes, the name changes and a new folder is built beside it.

# Standard input -> the first 12 hexadecimal digits of its SHA-256.
openvla_hash() {
    sha256sum | cut -c1-12
}

# Folder of an environment of Python packages, without building it.
#   openvla_environment_dir PREFIX REQUIREMENTS PYTHON -> PREFIX-<hash>
# Compiled packages depend on the Python version and the machine, so both are in the hash.
openvla_environment_dir() {
    local version='import platform, sys
print("%d.%d-%s" % (*sys.version_info[:2], platform.machine()))'
    echo "$1-$({
        cat "$2"
        "$3" -c "$version"
    } | openvla_hash)"
}

# Path of the first suitable interpreter among $OPENVLA_PYTHON or the usual names; status 1 without.
#   openvla_find_python NEWEST [CHECK]     NEWEST: newest minor version, the oldest is 3.10;
#                                          CHECK: further Python statements that must not fail
# `sys.executable` is printed, not the name: a launcher such as pyenv's depends on the folder.
openvla_find_python() { # bash only (word splitting)
    local candidate check="import ensurepip, sys, venv
assert (3, 10) <= sys.version_info[:2] <= (3, $1)
${2:-}"
    for candidate in ${OPENVLA_PYTHON:-python3 python3.12 python3.11 python3.13 python3.10 \
        /usr/bin/python3}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c "$check" >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# Description of the names tried, for error messages.
openvla_pythons_tried() { # NEWEST
    echo "${OPENVLA_PYTHON:-python3, python3.10 to python3.$1}"
}
