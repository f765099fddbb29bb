# Shared by tools/sim/setup and tools/sim/run. Needs OPENVLA_TT_ROOT and the environment of tools/ros/env.sh.

# Folder of the packages, named by what they are made from and for which Python: what is there and stamped is current.
openvla_sim_site() {
    local version
    version="$("$OPENVLA_ROS_PYTHON" -c 'import sys, platform; print("%d.%d-%s" % (*sys.version_info[:2], platform.machine()))')"
    echo "$OPENVLA_TT_ROOT/.sim/site-$({
        cat "$OPENVLA_TT_ROOT/sim/requirements.txt"
        echo "$version"
    } | sha256sum | cut -c1-12)"
}

openvla_sim_paths() { # site
    # Behind what ROS 2 has: its NumPy goes first.
    export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$OPENVLA_TT_ROOT/sim:$1"
}
