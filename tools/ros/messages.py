"""Builds openvla_tt_msgs for C and Python against the private ROS 2 prefix, without CMake.

Usage: messages.py PACKAGE_FOLDER OUTPUT_FOLDER, with the prefix's interpreter (tools/ros/setup).

The result has the layout of an installed ROS package: include/, lib/, share/ and a Python package.
On a full ROS 2 installation the package is built by its own CMakeLists.txt instead.
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import xml.etree.ElementTree

import numpy

PREFIX = pathlib.Path(sys.prefix)
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# Kinds of interfaces: each is a folder and the suffix of its files.
KINDS = ("msg", "action")
# Packages whose messages are in the services that an action consists of.
NESTED = ("builtin_interfaces", "service_msgs", "unique_identifier_msgs")
TYPESUPPORTS = ("c", "introspection_c", "fastrtps_c")
# Not the `rosidl` script: its first line has the prefix's path, whose length the kernel limits.
ROSIDL = (sys.executable, "-c", "import sys; from rosidl_cli.cli import main; sys.exit(main())")


class BuildError(Exception):
    """A command failed; carries the command and what it printed."""


def run(*command: object) -> None:
    """Runs a command, silent unless it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(words)}\n{done.stdout}")


class Package:
    """An interface package: sources and objects in `work`, the installed result in `out`."""

    def __init__(self, source: pathlib.Path, out: pathlib.Path, work: pathlib.Path) -> None:
        self.source, self.out, self.work = source, out, work
        manifest = xml.etree.ElementTree.parse(source / "package.xml").getroot()
        self.name = manifest.findtext("name", "")
        self.depends = [element.text or "" for element in manifest.findall("depend")]
        found = (path for kind in KINDS for path in (source / kind).glob(f"*.{kind}"))
        self.interfaces = sorted(path.relative_to(source) for path in found)
        self.lib = out / "lib"
        self.python = self.lib / PYTHON / "site-packages" / self.name
        include = PREFIX / "include"
        self.includes = [f"-I{out / 'include' / self.name}", f"-I{include}"]
        self.includes += [
            f"-I{path}" for path in sorted(include.iterdir()) if (path / path.name).is_dir()
        ]

    def build(self) -> None:
        """Generates, compiles and installs."""
        self.generate()
        self.install_headers()
        self.install_share()
        self.install_python()
        for build in (self.build_c, self.build_typesupports, self.build_python):
            build()

    def generate(self) -> None:
        """Interface definitions and sources, by the `rosidl` command."""
        os.chdir(self.source)  # rosidl takes paths relative to the package only
        options = ["-t", "c", "-t", "py"]
        for typesupport in TYPESUPPORTS:
            options += ["-ts", typesupport]
        run(
            *ROSIDL,
            "generate",
            "-o",
            self.work,
            *options,
            "-I",
            PREFIX / "share",
            self.name,
            *self.interfaces,
        )

    def install_headers(self) -> None:
        """Installs the headers of all generators in one tree, like rosidl_generate_interfaces."""
        for generator in TYPESUPPORTS:
            for header in (self.work / generator).rglob("*.h"):
                target = (
                    self.out
                    / "include"
                    / self.name
                    / self.name
                    / header.relative_to(self.work / generator)
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(header, target)

    def install_share(self) -> None:
        """Definitions and the marks in the ament index by which tools find the package."""
        share = self.out / "share" / self.name
        definitions = []
        for kind in KINDS:
            (share / kind).mkdir(parents=True)
        shutil.copyfile(self.source / "package.xml", share / "package.xml")
        for interface in self.interfaces:
            shutil.copyfile(self.source / interface, share / interface)
            for suffix, origin in ((".idl", "c/tmp"), (".json", "c")):
                shutil.copyfile(
                    self.work / origin / interface.with_suffix(suffix),
                    share / interface.with_suffix(suffix),
                )
            definitions += [str(interface.with_suffix(".idl")), str(interface)]
        index = self.out / "share" / "ament_index" / "resource_index"
        for kind, text in (
            ("packages", ""),
            ("rosidl_interfaces", "\n".join(definitions)),
            ("package_run_dependencies", ";".join([*self.depends, "rosidl_default_runtime"])),
        ):
            (index / kind).mkdir(parents=True)
            (index / kind / self.name).write_text(text)

    def install_python(self) -> None:
        """The Python half of the package."""
        for module in (self.work / "py").rglob("*.py"):
            target = self.python / module.relative_to(self.work / "py")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(module, target)
        (self.python / "__init__.py").touch()

    def compile(self, source: pathlib.Path, *flags: str) -> pathlib.Path:
        """One source file to one object file."""
        target = self.work / "objects" / f"{'_'.join(source.relative_to(self.work).parts)}.o"
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = ("cc", "-std=gnu11") if source.suffix == ".c" else ("c++", "-std=gnu++17")
        run(*compiler, "-O2", "-fPIC", *flags, *self.includes, "-c", source, "-o", target)
        return target

    def link(
        self, target: pathlib.Path, sources: list[pathlib.Path], libraries: list[str], *flags: str
    ) -> None:
        """Links a shared library that finds libraries in its own folder.

        Those of the prefix are found through LD_LIBRARY_PATH.
        """
        if not sources:
            raise BuildError(f"no sources for {target.name}: rosidl has changed its layout")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: self.compile(source, *flags), sources))
        origin = os.path.relpath(self.lib, target.parent)
        run(
            "c++",
            "-shared",
            "-o",
            target,
            *objects,
            f"-L{self.lib}",
            f"-L{PREFIX / 'lib'}",
            f"-Wl,-rpath,$ORIGIN/{origin}",
            *(f"-l{library}" for library in libraries),
        )

    def library(self, part: str) -> pathlib.Path:
        """Where a library of this package lies."""
        return self.lib / f"lib{self.name}__{part}.so"

    def sources(self, generator: str, pattern: str) -> list[pathlib.Path]:
        """The files that a generator made of the interfaces of every kind."""
        return sorted(
            path for kind in KINDS for path in (self.work / generator / kind).glob(pattern)
        )

    def neighbours(self, part: str) -> list[str]:
        """The same library of the packages this one depends on."""
        return [f"{name}__{part}" for name in dict.fromkeys([*self.depends, *NESTED])]

    def build_c(self) -> None:
        """Structures, their functions and their descriptions."""
        self.link(
            self.library("rosidl_generator_c"),
            self.sources("c", "detail/*.c"),
            [*self.neighbours("rosidl_generator_c"), "rosidl_runtime_c", "rcutils"],
        )

    def build_typesupports(self) -> None:
        """Type support: serialisation (fastrtps), introspection (r2r), and the dispatcher."""
        own = f"{self.name}__rosidl_generator_c"
        for part, folder, pattern, libraries in (
            (
                "rosidl_typesupport_introspection_c",
                "introspection_c",
                "detail/*.c",
                ["rosidl_typesupport_introspection_c", "rosidl_runtime_c"],
            ),
            (
                "rosidl_typesupport_fastrtps_c",
                "fastrtps_c",
                "detail/*.cpp",
                [
                    "rosidl_typesupport_fastrtps_c",
                    "rosidl_typesupport_fastrtps_cpp",
                    "fastcdr",
                    "rmw",
                    "rosidl_dynamic_typesupport",
                    "rosidl_runtime_c",
                ],
            ),
            (
                "rosidl_typesupport_c",
                "c",
                "*.cpp",
                ["rosidl_typesupport_c", "rosidl_runtime_c"],
            ),
        ):
            sources = self.sources(folder, pattern)
            self.link(self.library(part), sources, [own, *self.neighbours(part), *libraries])

    def build_python(self) -> None:
        """Conversion between Python and C, with one extension module for each type support."""
        include = (f"-I{sysconfig.get_path('include')}", f"-I{numpy.get_include()}")
        own = f"{self.name}__rosidl_generator_c"
        self.link(
            self.library("rosidl_generator_py"),
            self.sources("py", "*.c"),
            [
                own,
                f"{self.name}__rosidl_typesupport_c",
                *self.neighbours("rosidl_generator_py"),
                *self.neighbours("rosidl_generator_c"),
                "rosidl_runtime_c",
            ],
            *include,
        )
        for source in sorted((self.work / "py").glob("_*.c")):
            # _NAME_s.ep.TYPESUPPORT.c -> NAME_s__TYPESUPPORT.so, the name that rosidl_generator_py
            # imports
            typesupport = source.name.split(".ep.")[1].removesuffix(".c")
            libraries = [
                f"{self.name}__rosidl_generator_py",
                f"{self.name}__{typesupport}",
                own,
                "rosidl_runtime_c",
                "rosidl_typesupport_c",
                "rmw",
                "rcutils",
            ]
            self.link(
                self.python / f"{self.name}_s__{typesupport}.so",
                [source],
                list(dict.fromkeys(libraries)),
                *include,
            )


def main() -> int:
    """Builds the package named on the command line."""
    if len(sys.argv) != 3:
        print("usage: messages.py PACKAGE_FOLDER OUTPUT_FOLDER", file=sys.stderr)
        return 2
    source, out = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    try:
        with tempfile.TemporaryDirectory(prefix="openvla_tt_msgs.") as work:
            Package(source, out, pathlib.Path(work)).build()
    except (BuildError, OSError) as error:
        print(f"messages.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
