# Environment with PyTorch's official model; bash, used by tools/precision/setup and
# tools/precision/run after tools/lib/env.sh. Needs OPENVLA_TT_ROOT. Sets `python`, the interpreter
# that the environment is made with, and `environment`, its folder. Status 1 without a Python that
# PyTorch 2.2.2 and tokenizers 0.19.1 have wheels for.

# Packages of a sourced ROS 2 or another environment must not be found first.
unset PYTHONPATH PYTHONHOME
python="$(openvla_find_python 12)" || return 1
environment="$(openvla_environment_dir "$OPENVLA_TT_ROOT/.precision/environment" \
    "$OPENVLA_TT_ROOT/tools/precision/requirements.txt" "$python")"
