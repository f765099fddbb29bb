# Environment for building and running with ROS 2. In bash or zsh, after tools/ros/setup:
#   . tools/ros/env.sh
# Uses the ROS 2 that is sourced; without one, the private prefix in .ros/. Sourcing this file a
# second time changes nothing.

if [ -n "${BASH_SOURCE:-}" ]; then
    OPENVLA_TT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
elif [ -n "${ZSH_VERSION:-}" ]; then
    eval 'OPENVLA_TT_ROOT="${${(%):-%x}:A:h:h:h}"'
fi
if [ ! -f "${OPENVLA_TT_ROOT:-}/tools/ros/lib.sh" ]; then
    echo "env.sh: source it from bash or zsh, or first set OPENVLA_TT_ROOT to this project" >&2
    return 1
fi
. "$OPENVLA_TT_ROOT/tools/lib/env.sh"
. "$OPENVLA_TT_ROOT/tools/ros/lib.sh"

# The environment before the first time, so that after a change of the messages their new folder
# replaces the old one in the paths.
if [ -z "${OPENVLA_ROS_MODE:-}" ]; then
    export OPENVLA_ROS_MODE="$(openvla_ros_mode)"
    export OPENVLA_OUTER_AMENT="${AMENT_PREFIX_PATH:-}"
    export OPENVLA_OUTER_LIBRARY="${LD_LIBRARY_PATH:-}"
    export OPENVLA_OUTER_PYTHON="${PYTHONPATH:-}" OPENVLA_OUTER_PATH="$PATH"
fi

if [ "$OPENVLA_ROS_MODE" = private ]; then
    openvla_base="$(openvla_base_dir)"
    openvla_msgs="$(ROS_DISTRO=jazzy openvla_msgs_dir "$openvla_base")"
    openvla_ament="$openvla_msgs:$openvla_base"
    openvla_library="$openvla_msgs/lib:$openvla_base/lib"
    if [ ! -f "$openvla_base/.complete" ] || [ ! -f "$openvla_msgs/.complete" ]; then
        echo "env.sh: the private ROS 2 is not built or not current; run tools/ros/setup" >&2
        return 1
    fi
    export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3
    export RMW_IMPLEMENTATION=rmw_fastrtps_cpp # the only middleware in the prefix
    # The wheels' start-up hook would run Python a second time to set what is set here.
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    export OPENVLA_ROS_PYTHON="$openvla_base/bin/python3"
    export PATH="$openvla_base/bin:$OPENVLA_OUTER_PATH"
    export LIBCLANG_PATH="$openvla_base/$(cat "$openvla_base/.libclang")"
    # The libclang wheel has no compiler headers (stddef.h, ...): those of the C compiler are used.
    export BINDGEN_EXTRA_CLANG_ARGS="-isystem $(cc -print-file-name=include)"
else
    openvla_msgs="$(openvla_sourced_msgs "$OPENVLA_OUTER_AMENT")"
    openvla_ament="$OPENVLA_OUTER_AMENT"
    openvla_library=""
    if [ -z "$openvla_msgs" ]; then
        openvla_msgs="$(openvla_msgs_dir "$OPENVLA_OUTER_AMENT")"
        openvla_ament="$openvla_msgs:$OPENVLA_OUTER_AMENT"
        openvla_library="$openvla_msgs/lib"
        if [ ! -f "$openvla_msgs/.complete" ]; then
            echo "env.sh: openvla_tt_msgs is not built for the sourced ROS 2 ${ROS_DISTRO:-}; run" \
                "tools/ros/setup" >&2
            return 1
        fi
    fi
    export OPENVLA_ROS_PYTHON="$(command -v python3)"
    if [ -z "${LIBCLANG_PATH:-}" ]; then
        openvla_clang="$(openvla_system_libclang)"
        if [ -z "$openvla_clang" ] && [ -d "$OPENVLA_TT_ROOT/.ros/clang/clang/native" ]; then
            openvla_clang="$OPENVLA_TT_ROOT/.ros/clang/clang/native"
            export BINDGEN_EXTRA_CLANG_ARGS="-isystem $(cc -print-file-name=include)"
        fi
        [ -z "$openvla_clang" ] || export LIBCLANG_PATH="$openvla_clang"
        unset openvla_clang
    fi
fi

# Debian's Python installs into dist-packages, also below local/.
openvla_python="$(cd "$openvla_msgs" && find . -maxdepth 4 \
    \( -path './lib/python3*/*-packages' -o -path './local/lib/python3*/*-packages' \) \
    -print -quit)"
if [ -n "$OPENVLA_OUTER_LIBRARY" ]; then
    openvla_library="$openvla_library${openvla_library:+:}$OPENVLA_OUTER_LIBRARY"
fi
export AMENT_PREFIX_PATH="$openvla_ament"
export LD_LIBRARY_PATH="$openvla_library"
openvla_python="$openvla_msgs/${openvla_python#./}"
export PYTHONPATH="$openvla_python${OPENVLA_OUTER_PYTHON:+:$OPENVLA_OUTER_PYTHON}"
export IDL_PACKAGE_FILTER="$OPENVLA_IDL_PACKAGES"
unset openvla_base openvla_msgs openvla_ament openvla_library openvla_python
