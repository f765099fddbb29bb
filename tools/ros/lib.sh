# Shared by setup, env.sh and run; bash and zsh. Needs OPENVLA_TT_ROOT, the folder with Cargo.toml.
# Everything built lives in $OPENVLA_TT_ROOT/.ros, in folders named by the hash of what they were built from: what is
# there and stamped is current, what has changed gets another name, and r2r (which watches the paths, not the files)
# sees that it has.

# What r2r generates Rust for; packages nested in these must be listed too.
OPENVLA_IDL_PACKAGES="action_msgs;builtin_interfaces;diagnostic_msgs;geometry_msgs;lifecycle_msgs;openvla_tt_msgs;rcl_interfaces;rosgraph_msgs;sensor_msgs;service_msgs;std_msgs;std_srvs;trajectory_msgs;type_description_interfaces;unique_identifier_msgs"

openvla_hash() { # standard input -> 12 hexadecimal digits
    sha256sum | cut -c1-12
}

# private | sourced. A ROS 2 that the user has sourced goes first; OPENVLA_ROS=private overrides that.
openvla_ros_mode() {
    if [ "${OPENVLA_ROS:-auto}" = private ]; then
        echo private
    elif [ -n "${AMENT_PREFIX_PATH:-}" ] && [ "${OPENVLA_ROS_MODE:-}" != private ]; then
        echo sourced
    else
        echo private
    fi
}

# Folder of the private prefix made from the wheels.
openvla_base_dir() {
    echo "$OPENVLA_TT_ROOT/.ros/jazzy-$(cd "$OPENVLA_TT_ROOT/tools/ros" &&
        cat requirements.txt requirements-build.txt prefix.py | openvla_hash)"
}

# Folder of our messages, built against $1 (a folder, or a sourced AMENT_PREFIX_PATH).
openvla_msgs_dir() {
    echo "$OPENVLA_TT_ROOT/.ros/msgs-$({
        cd "$OPENVLA_TT_ROOT" && cat msg/package.xml msg/CMakeLists.txt msg/msg/*.msg tools/ros/messages.py
        printf '%s %s' "${ROS_DISTRO:-jazzy}" "${1#"$OPENVLA_TT_ROOT"/}"
    } | openvla_hash)"
}

# A folder of a sourced ROS 2 that holds our messages as this tree has them, or nothing.
openvla_sourced_msgs() {
    local rest="$1:" prefix
    while [ -n "$rest" ]; do
        prefix="${rest%%:*}"
        rest="${rest#*:}"
        if [ -n "$prefix" ] && cmp -s "$OPENVLA_TT_ROOT/msg/msg/Action.msg" "$prefix/share/openvla_tt_msgs/msg/Action.msg" &&
            cmp -s "$OPENVLA_TT_ROOT/msg/msg/Status.msg" "$prefix/share/openvla_tt_msgs/msg/Status.msg"; then
            echo "$prefix"
            return
        fi
    done
}

# Folder with a libclang of the system, or nothing.
openvla_system_libclang() {
    find /usr/lib/llvm-* /usr/lib/*-linux-gnu /usr/lib64 -maxdepth 2 -name 'libclang[-.]*so*' -not -name '*cpp*' -printf '%h\n' 2>/dev/null |
        sort -V | tail -n 1
}
