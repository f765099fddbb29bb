"""Prints a report of replay.py: one line, and one for each refusal."""

import json
import pathlib
import sys


def main():
    report = json.loads(pathlib.Path(sys.argv[1]).read_text())
    print(
        f"   {report['recording']} on {report['cluster']}, {report['grid'][0]}x"
        f"{report['grid'][1]} cores: {report['operations']} operations replayed, "
        f"{len(report['refused'])} kinds refused"
    )
    for refusal in report["refused"]:
        print(f"   line {refusal['line']}: {json.dumps(refusal['op'])}")
        print(f"      of {refusal['inputs']}: {refusal['why']}")


if __name__ == "__main__":
    main()
