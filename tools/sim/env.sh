# Environment of the simulated robot on top of that of ROS 2; bash, used by tools/sim/setup and
# tools/sim/run. Needs OPENVLA_TT_ROOT and a current .ros/. Sets OPENVLA_SIM_SITE, the folder with
# MuJoCo, which tools/sim/setup builds.
set +u
. "$OPENVLA_TT_ROOT/tools/ros/env.sh"
set -u
OPENVLA_SIM_SITE="$(openvla_environment_dir "$OPENVLA_TT_ROOT/.sim/site" \
    "$OPENVLA_TT_ROOT/sim/requirements.txt" "$OPENVLA_ROS_PYTHON")"
# Last in the search order: NumPy must be the one that the ROS 2 messages are built against.
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$OPENVLA_TT_ROOT/sim:$OPENVLA_SIM_SITE"
