"""Compares the symbols that the shim imports from TT-NN with those that a wheel's libraries export.

    check_symbols.py FOLDER LIST...      FOLDER: of an installed or unpacked ttnn package

A list is a text file with one mangled name a line; `#` begins a comment. A missing symbol means
that a function changed its parameters, its types or its name: the shim would not load.
"""

import pathlib
import subprocess
import sys


def exported(libraries):
    names = set()
    for library in libraries:
        output = subprocess.run(
            ["nm", "-D", "--defined-only", "--format=posix", library],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        names.update(line.split()[0].split("@")[0] for line in output.splitlines() if line.strip())
    return names


def listed(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def readable(names):
    """Demangled, where c++filt is installed."""
    try:
        run = subprocess.run(
            ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return names
    return run.stdout.splitlines()


def main():
    package, lists = pathlib.Path(sys.argv[1]), [pathlib.Path(name) for name in sys.argv[2:]]
    libraries = sorted((package / "build" / "lib").glob("*.so"))
    if not libraries or not lists:
        sys.exit(f"check_symbols: no libraries in {package}/build/lib, or no list given")
    there, bad = exported(libraries), 0
    for path in lists:
        wanted = listed(path)
        missing = [name for name in wanted if name not in there]
        print(f"{path.name}: {len(wanted) - len(missing)} of {len(wanted)} symbols found")
        for name in readable(missing):
            print(f"  missing: {name}")
        bad += len(missing) + (not wanted)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
