# Shared by tools/ros/setup, tools/sim/setup and tools/train_demo/setup. The caller has set:
#   name     ros, sim or train_demo: the folder under tools/ that it is of
#   log      the file that takes the output of a step
#   started  $SECONDS when it began

say() { echo "$name: $* ($((SECONDS - started)) s)"; }
fail() {
    echo "tools/$name/setup: $*" >&2
    exit 1
}

# Runs a step with its output in a file, which is shown only when the step fails.
step() {
    "$@" >"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        fail "'${*##*/}' failed; all of its output is in ${log#"$OPENVLA_TT_ROOT/"}"
    }
}

# Installs system packages when root; otherwise names them in one line.
system_packages() { # reason, package...
    local reason="$1"
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $* ($reason)"
        # Another set-up may be installing something at this moment.
        local wait=(-o DPkg::Lock::Timeout=300)
        step apt-get "${wait[@]}" update -qq
        DEBIAN_FRONTEND=noninteractive step apt-get "${wait[@]}" install -y -qq --no-install-recommends "$@"
    else
        fail "$reason; install it as root: apt-get install $*"
    fi
}

# Makes MuJoCo draw without a display: prints the way that works here, EGL (Mesa's software drawing or a GPU) or else OSMesa. Installs Mesa where neither does.
mujoco_drawing() { # python that has MuJoCo
    local way reasons="${log%.log}_drawing.log"
    : >"$reasons"
    if ! way="$(mujoco_try "$1" "$reasons")"; then
        system_packages "MuJoCo cannot draw without a display, ${reasons#"$OPENVLA_TT_ROOT/"} says why" libegl1 libgl1 libgl1-mesa-dri >&2
        way="$(mujoco_try "$1" "$reasons")" || fail "MuJoCo cannot draw without a display, with Mesa's EGL installed (${reasons#"$OPENVLA_TT_ROOT/"} says why)"
    fi
    echo "$way"
}

mujoco_try() { # python, file for the reasons
    local way
    for way in ${MUJOCO_GL:-egl osmesa}; do
        if MUJOCO_GL="$way" timeout 60 "$1" "$OPENVLA_TT_ROOT/tools/sim/probe.py" >>"$2" 2>&1; then
            echo "$way"
            return
        fi
    done
    return 1
}
