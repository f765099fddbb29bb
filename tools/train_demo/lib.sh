# Shared by setup and run. Needs OPENVLA_TT_ROOT and $python, the interpreter that the environment is made with.

# Folder of the environment, named by what it is made from and for which Python: what is there and stamped is current.
train_demo_environment() {
    local version
    version="$("$python" -c 'import platform, sys; print("%d.%d-%s" % (*sys.version_info[:2], platform.machine()))')"
    echo "$OPENVLA_TT_ROOT/.train/environment-$({
        cat "$OPENVLA_TT_ROOT/tools/train_demo/requirements.txt"
        echo "$version"
    } | sha256sum | cut -c1-12)"
}

# The first Python that PyTorch 2.2.2 has wheels for; fails without one.
train_demo_python() {
    local candidate
    for candidate in ${OPENVLA_PYTHON:-python3 python3.12 python3.11 python3.10 /usr/bin/python3}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import ensurepip, sys, venv; assert (3, 10) <= sys.version_info[:2] <= (3, 12)' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}
