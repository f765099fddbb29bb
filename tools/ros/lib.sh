# Where the parts of the ROS 2 environment are; bash and zsh. Used by tools/ros/setup and
# tools/ros/env.sh, after tools/lib/env.sh. Needs OPENVLA_TT_ROOT, the folder with Cargo.toml.
#
# Everything built is in $OPENVLA_TT_ROOT/.ros, in folders named by the hash of what they were built
# from. So r2r, which watches the paths in its environment and not the files, notices a change.

# Packages that r2r generates Rust for, with those nested in them. CMakeLists.txt has the same list.
OPENVLA_IDL_PACKAGES="action_msgs;builtin_interfaces;diagnostic_msgs;geometry_msgs;\
lifecycle_msgs;openvla_tt_msgs;rcl_interfaces;rosgraph_msgs;sensor_msgs;service_msgs;std_msgs;\
std_srvs;trajectory_msgs;type_description_interfaces;unique_identifier_msgs"

# private | sourced: a ROS 2 that the user has sourced, unless OPENVLA_ROS=private.
openvla_ros_mode() {
    if [ "${OPENVLA_ROS:-auto}" = private ]; then
        echo private
    elif [ -n "${AMENT_PREFIX_PATH:-}" ] && [ "${OPENVLA_ROS_MODE:-}" != private ]; then
        echo sourced
    else
        echo private
    fi
}

# Folder of the private prefix, made from the wheels.
openvla_base_dir() {
    echo "$OPENVLA_TT_ROOT/.ros/jazzy-$(cd "$OPENVLA_TT_ROOT/tools/ros" &&
        cat requirements.txt requirements-build.txt prefix.py | openvla_hash)"
}

# Folder of this project's messages, built against $1 (a folder, or a sourced AMENT_PREFIX_PATH).
openvla_msgs_dir() {
    echo "$OPENVLA_TT_ROOT/.ros/msgs-$({
        cd "$OPENVLA_TT_ROOT" &&
            cat msg/package.xml msg/CMakeLists.txt msg/msg/*.msg msg/action/*.action \
                tools/ros/messages.py
        printf '%s %s' "${ROS_DISTRO:-jazzy}" "${1#"$OPENVLA_TT_ROOT"/}"
    } | openvla_hash)"
}

# First folder of the sourced ROS 2 $1 that has the current version of our messages, or nothing.
openvla_sourced_msgs() {
    local rest="$1:" prefix ours="$OPENVLA_TT_ROOT/msg" theirs interface
    while [ -n "$rest" ]; do
        prefix="${rest%%:*}"
        rest="${rest#*:}"
        [ -n "$prefix" ] || continue
        theirs="$prefix/share/openvla_tt_msgs"
        for interface in msg/Action.msg msg/Status.msg action/RunPolicy.action; do
            cmp -s "$ours/$interface" "$theirs/$interface" || continue 2
        done
        echo "$prefix"
        return
    done
}

# Folder of the newest libclang of the system, or nothing.
openvla_system_libclang() {
    find /usr/lib/llvm-* /usr/lib/*-linux-gnu /usr/lib64 -maxdepth 2 \
        -name 'libclang[-.]*so*' -not -name '*cpp*' -printf '%h\n' 2>/dev/null |
        sort -V | tail -n 1
}
