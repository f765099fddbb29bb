#!/usr/bin/env python3
"""Runs a command in a ROS domain of its own, on loopback only.

Usage: isolated.py COMMAND [ARGUMENT...]

So that two test runs on one machine, or a test run and a real robot, never exchange messages. The
domain is claimed by a lock on a file that the command and its children inherit: it is released when
the last of them ends. A domain whose ports are in use is not taken. tests/ros_support/mod.rs does
the same in Rust.
"""

import fcntl
import os
import pathlib
import random
import sys
import tempfile

# Domains whose ports are below Linux's ephemeral ports, without the default domain 0.
DOMAINS = range(1, 102)
# Variables that connect a process to other domains or change the middleware's settings.
FOREIGN = (
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "CYCLONEDDS_URI",
)


def udp_ports() -> set[int]:
    """The UDP ports that are bound on this machine."""
    ports = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        try:
            lines = pathlib.Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        ports.update(int(line.split()[1].rsplit(":", 1)[1], 16) for line in lines)
    return ports


def claim() -> tuple[int, int]:
    """A free domain and the file descriptor that holds it."""
    used = udp_ports()
    # In random order, so that a run does not depend on what an earlier one left in a domain.
    for domain in random.sample(DOMAINS, len(DOMAINS)):
        first = 7400 + 250 * domain
        if any(first <= port < first + 250 for port in used):
            continue
        path = os.path.join(tempfile.gettempdir(), f"openvla_tt-domain-{domain}.lock")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            continue  # the file of another user
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            continue
        return domain, handle
    raise RuntimeError("all ROS domains from 1 to 101 are in use on this machine")


def environment(domain: int) -> dict[str, str]:
    """This process's environment, confined to the domain and to loopback."""
    result = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    result["ROS_DOMAIN_ID"] = str(domain)
    # Humble has only the older variable; Jazzy warns when both are set.
    if result.get("ROS_DISTRO") == "humble":
        result["ROS_LOCALHOST_ONLY"] = "1"
    else:
        result.pop("ROS_LOCALHOST_ONLY", None)
        result["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    # Without this profile raw images are lost; the reason is in the file.
    result["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(
        pathlib.Path(__file__).resolve().parents[2] / "config/fastdds.xml"
    )
    return result


def main() -> int:
    """Replaces this process by the command."""
    if len(sys.argv) < 2:
        print("usage: isolated.py COMMAND [ARGUMENT...]", file=sys.stderr)
        return 2
    try:
        domain, handle = claim()
        os.set_inheritable(handle, True)
        os.execvpe(sys.argv[1], sys.argv[1:], environment(domain))
    except (OSError, RuntimeError) as error:
        print(f"isolated.py: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
