# Environment that trains the tabletop policy; bash, used by tools/train_demo/setup and
# tools/train_demo/run after tools/lib/env.sh. Needs OPENVLA_TT_ROOT. Sets `python`, the interpreter
# that the environment is made with, and `environment`, its folder. Status 1 without a Python that
# PyTorch 2.2.2 has wheels for.

# Packages of a sourced ROS 2 or another environment must not be found first.
unset PYTHONPATH PYTHONHOME
python="$(openvla_find_python 12)" || return 1
environment="$(openvla_environment_dir "$OPENVLA_TT_ROOT/.train/environment" \
    "$OPENVLA_TT_ROOT/tools/train_demo/requirements.txt" "$python")"
