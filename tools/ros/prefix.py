"""Makes a virtual environment of ROS 2 wheels usable as a prefix for programs outside Python.

Run by `tools/ros/setup` with the environment's own interpreter. Each step checks its input, so that
a change in the wheels is an error here and not later.
"""

import pathlib
import shutil
import subprocess
import sys

PREFIX = pathlib.Path(sys.prefix)
LIB = PREFIX / "lib"
SITE = LIB / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

# Libraries that programs link and that wrongly need symbols of a Python interpreter.
NEEDS_PYTHON = ("librcl.so", "librcl_action.so", "librcl_lifecycle.so")


def fail(message: str) -> None:
    sys.exit(f"tools/ros/prefix.py: {message}")


def provide_rmw_implementation() -> None:
    """Links librmw_implementation.so, which the wheels lack, to the only middleware."""
    link = LIB / "librmw_implementation.so"
    if link.exists():
        return
    if not (LIB / "librmw_fastrtps_cpp.so").exists():
        fail(f"no librmw_fastrtps_cpp.so in {LIB}: the middleware's wheel has changed its layout")
    link.symlink_to("librmw_fastrtps_cpp.so")


def remove_python_needs() -> None:
    """Removes DT_NEEDED entries for `*__rosidl_generator_py.so`, which need a Python process."""
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
    """Removes `.egg-info` beside a `.dist-info`: `rosidl` refuses the second entry point."""
    for egg in SITE.glob("*-py3*.egg-info"):
        name = egg.name.split("-")[0]
        if not any(SITE.glob(f"ros_{name}-*.dist-info")):
            fail(f"{egg.name} has no wheel entry beside it: removing it would lose the package")
        shutil.rmtree(egg)


def gather_libraries() -> None:
    """Links the wheels' bundled libraries into lib/: one folder for LD_LIBRARY_PATH."""
    for folder in sorted(SITE.glob("ros_*.libs")):
        for library in sorted(folder.iterdir()):
            link = LIB / library.name
            if not link.exists():
                link.symlink_to(library.relative_to(LIB))


def note_libclang() -> None:
    """Writes the folder of the wheel's libclang, relative to the prefix, to `.libclang`."""
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
