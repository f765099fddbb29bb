"""Turns a virtual environment full of ROS 2 wheels into a prefix that programs outside Python can use.

Run by `tools/ros/setup` with the environment's own interpreter. Each step checks what it finds, so that a change in the
wheels shows here and not as a strange error later.
"""

import pathlib
import shutil
import subprocess
import sys

PREFIX = pathlib.Path(sys.prefix)
LIB = PREFIX / "lib"
SITE = LIB / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

# Libraries that other programs link and that wrongly need symbols of a Python interpreter.
NEEDS_PYTHON = ("librcl.so", "librcl_action.so", "librcl_lifecycle.so")


def fail(message: str) -> None:
    sys.exit(f"tools/ros/prefix.py: {message}")


def provide_rmw_implementation() -> None:
    """The wheels have no librmw_implementation.so; with a single middleware, that one serves in its place."""
    link = LIB / "librmw_implementation.so"
    if link.exists():
        return
    if not (LIB / "librmw_fastrtps_cpp.so").exists():
        fail(f"no librmw_fastrtps_cpp.so in {LIB}: the middleware's wheel has changed its layout")
    link.symlink_to("librmw_fastrtps_cpp.so")


def remove_python_needs() -> None:
    """Drops DT_NEEDED entries on `*__rosidl_generator_py.so`, whose symbols only a Python process has."""
    patchelf = shutil.which("patchelf", path=str(PREFIX / "bin"))
    if patchelf is None:
        fail(f"no patchelf in {PREFIX / 'bin'}")
    for name in NEEDS_PYTHON:
        library = LIB / name
        needed = subprocess.run(
            [patchelf, "--print-needed", library], check=True, capture_output=True, text=True
        ).stdout.split()
        arguments = [
            argument
            for need in needed
            if need.endswith("__rosidl_generator_py.so")
            for argument in ("--remove-needed", need)
        ]
        if arguments:
            subprocess.run([patchelf, *arguments, library], check=True)


def register_generators_once() -> None:
    """Some packages come with an `.egg-info` beside their `.dist-info`: the `rosidl` command refuses the second entry."""
    for egg in SITE.glob("*-py3*.egg-info"):
        name = egg.name.split("-")[0]
        if not any(SITE.glob(f"ros_{name}-*.dist-info")):
            fail(f"{egg.name} has no wheel entry beside it: removing it would lose the package")
        shutil.rmtree(egg)


def gather_libraries() -> None:
    """Links the wheels' bundled libraries into lib/, so that one folder on LD_LIBRARY_PATH is enough."""
    for folder in sorted(SITE.glob("ros_*.libs")):
        for library in sorted(folder.iterdir()):
            link = LIB / library.name
            if not link.exists():
                link.symlink_to(library.relative_to(LIB))


def note_libclang() -> None:
    """Writes where the libclang wheel has its library, relative to the prefix."""
    native = SITE / "clang" / "native"
    if not (native / "libclang.so").exists():
        fail(f"no libclang.so in {native}")
    (PREFIX / ".libclang").write_text(f"{native.relative_to(PREFIX)}\n")


if __name__ == "__main__":
    if sys.prefix == sys.base_prefix:
        fail("run it with the interpreter of the virtual environment, never with the system's")
    provide_rmw_implementation()
    remove_python_needs()
    register_generators_once()
    gather_libraries()
    note_libclang()
