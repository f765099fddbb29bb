"""vla-eval's LIBERO benchmark against `openvla serve`: a short episode without an error.

`harness.py OPENVLA`, in the environment of tools/libero. An episode of 10 steps with chunks of 8
needs two inferences, which the server's metrics count.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ["OPENVLA"] = str(pathlib.Path(sys.argv[1]).resolve())
sys.path.insert(0, str(ROOT / "tools/serve"))
from server import Server  # noqa: E402

OPTIONS = ("--checkpoint", ROOT / "tests/data/oft_tiny/ckpt")
OPTIONS += ("--policy-file", ROOT / "config/policies/openvla-oft-libero.yaml")
OPTIONS += ("--unnorm-key", "libero_spatial_no_noops", "--done-by-client", "rotate_180")


def main():
    # While the simulator starts and steps, the harness reads nothing.
    options = (*OPTIONS, "--silence-timeout-s", 3600)
    with Server(*options) as server, tempfile.TemporaryDirectory() as out:
        program = pathlib.Path(sys.executable).with_name("vla-eval")
        command = [program, "run", "--no-docker", "-c", ROOT / "tools/libero/smoke.yaml"]
        command += ["--server-url", f"ws://127.0.0.1:{server.port}/vla-eval", "--output-dir", out]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (result,) = pathlib.Path(out).glob("*_aggregate.json")
        (task,) = json.loads(result.read_text())["tasks"]
        metrics = requests.get(f"{server.url}/metrics", timeout=10).text
    (inferred,) = re.findall(r"^openvla_inference_seconds_count (\d+)$", metrics, re.MULTILINE)
    (episode,) = task["episodes"]
    errors = task.get("num_errors", 0)
    assert (errors, episode["steps"], inferred) == (0, 10, "2"), (task, metrics)
    print(f"vla-eval: an episode of {episode['steps']} steps from {inferred} chunks, no error")


if __name__ == "__main__":
    main()
