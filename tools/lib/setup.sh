# The steps that every tools/*/setup is made of; bash. A set-up script does:
#
#   OPENVLA_TT_ROOT=...; . "$OPENVLA_TT_ROOT/tools/lib/setup.sh"
#   setup_begin NAME FOLDER "$@"     # NAME: of its folder in tools/; FOLDER: for what is built
#   setup_lock                       # one set-up at a time
#   build_once DIR COMMAND...        # runs COMMAND unless DIR is complete
#   setup_end "what is ready"
#
# Output of the steps goes to FOLDER/setup.log and is shown only when a step fails.
. "$OPENVLA_TT_ROOT/tools/lib/env.sh"

setup_begin() { # name, folder, arguments of the script
    setup_name="$1" setup_folder="$OPENVLA_TT_ROOT/$2" setup_quiet="" setup_started=$SECONDS
    setup_log="$setup_folder/setup.log"
    if [ "${3:-}" = --quiet-when-current ]; then setup_quiet=yes; fi
}

# A second set-up of the same environment waits until the first has ended.
setup_lock() {
    mkdir -p "$setup_folder"
    exec 9>"$setup_folder/lock"
    flock 9
}

setup_end() { # description
    if [ -z "$setup_quiet" ] || [ $((SECONDS - setup_started)) -gt 1 ]; then say "ready: $1"; fi
}

say() { echo "$setup_name: $* ($((SECONDS - setup_started)) s)"; }

fail() {
    echo "tools/$setup_name/setup: $*" >&2
    exit 1
}

step() { # command...
    "$@" >"$setup_log" 2>&1 || {
        tail -n 25 "$setup_log" >&2
        fail "'${*##*/}' failed; all of its output is in ${setup_log#"$OPENVLA_TT_ROOT/"}"
    }
}

# Builds a folder anew unless it is stamped as complete. An interrupted build starts again.
build_once() { # folder, command...
    if [ -f "$1/.complete" ]; then return; fi
    rm -rf "$1"
    "${@:2}"
    touch "$1/.complete"
}

# Installs exactly what a requirements file pins, checked by hash.
pip_install() { # python, requirements, options of pip install...
    step "$1" -m pip --disable-pip-version-check --no-input install --require-hashes "${@:3}" \
        -r "$2"
}

# Makes a virtual environment of binary packages.
make_venv() { # folder, python, requirements, options of pip install...
    step "$2" -m venv "$1"
    pip_install "$1/bin/python3" "$3" --no-compile --only-binary :all: "${@:4}"
}

# Installs Debian packages as root; as another user fails with the command to type.
system_packages() { # reason, package...
    local reason="$1"
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $* ($reason)"
        local wait=(-o DPkg::Lock::Timeout=300) # another set-up may be installing packages now
        step apt-get "${wait[@]}" update -qq
        DEBIAN_FRONTEND=noninteractive \
            step apt-get "${wait[@]}" install -y -qq --no-install-recommends "$@"
    else
        fail "$reason; install it as root: apt-get install $*"
    fi
}

# Finds how MuJoCo renders without a display and writes the value for MUJOCO_GL to FOLDER/.drawing:
# egl (a GPU, or Mesa in software), else osmesa. Installs Mesa where neither works.
choose_renderer() { # folder, python with MuJoCo
    local backend reasons="${setup_log%.log}_drawing.log"
    if [ -s "$1/.drawing" ]; then return; fi
    : >"$reasons"
    if ! backend="$(working_renderer "$2" "$reasons")"; then
        local problem="MuJoCo cannot render without a display"
        local where="see ${reasons#"$OPENVLA_TT_ROOT/"}"
        system_packages "$problem, $where" libegl1 libgl1 libgl1-mesa-dri
        backend="$(working_renderer "$2" "$reasons")" ||
            fail "$problem although Mesa's EGL is installed, $where"
    fi
    echo "$backend" >"$1/.drawing"
    say "rendering with $backend"
}

working_renderer() { # python, file for the error messages -> egl or osmesa
    local backend
    for backend in ${MUJOCO_GL:-egl osmesa}; do
        if MUJOCO_GL="$backend" timeout 60 "$1" "$OPENVLA_TT_ROOT/tools/lib/mujoco_probe.py" \
            >>"$2" 2>&1; then
            echo "$backend"
            return
        fi
    done
    return 1
}
