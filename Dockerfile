# The node and the program `openvla` on ROS 2 Jazzy from Debian packages.
#
# NOT BUILT where this is developed (no Docker there): checked with hadolint, and step by step
# against package.xml and CMakeLists.txt only. See docs/verification.md.
#
#   docker build -t openvla_tt .
#   docker run --rm -it --network host --ipc host --ulimit rtprio=98 --cap-add SYS_NICE \
#     -v "$PWD/openvla-7b:/checkpoint:ro" -v "$PWD/files:/files:ro" openvla_tt \
#     ros2 launch openvla_tt vla.launch.yaml checkpoint:=/checkpoint \
#     policy_file:=/files/my_policy.yaml robot_file:=/files/my_robot.yaml
#
# --ipc host: a container's own /dev/shm of 64 MB is too small for Fast DDS's segments
# (config/fastdds.xml). --ulimit and --cap-add: real-time priority of the control thread. Chips:
# --device /dev/tenstorrent and a provider, docs/silicon.md.
FROM ros:jazzy-ros-base AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Ubuntu's rustup brings any version of Rust; libclang is for r2r's bindgen. Versions of Debian
# packages are the image's: a pinned one vanishes from the archive with the next update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake libclang-dev rustup \
    && rm -rf /var/lib/apt/lists/*
RUN rustup toolchain install 1.89.0 --profile minimal && rustup default 1.89.0

WORKDIR /ws
COPY . src/openvla_tt
# Everything that package.xml names and the image has not.
RUN apt-get update \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src/openvla_tt src/openvla_tt/msg --ignore-src -y \
        --rosdistro jazzy --dependency-types build --dependency-types buildtool \
        --dependency-types exec \
    && rm -rf /var/lib/apt/lists/*
RUN source /opt/ros/jazzy/setup.bash \
    && colcon build --base-paths src/openvla_tt src/openvla_tt/msg \
        --cmake-args -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF

FROM ros:jazzy-ros-core
# The same path as in the build: colcon writes it into its set-up files.
COPY --from=build /ws/install /ws/install
COPY --chmod=755 tools/docker/entrypoint /entrypoint
ENV FASTRTPS_DEFAULT_PROFILES_FILE=/ws/install/openvla_tt/share/openvla_tt/config/fastdds.xml
ENTRYPOINT ["/entrypoint"]
CMD ["ros2", "launch", "openvla_tt", "vla.launch.yaml", "--show-args"]
