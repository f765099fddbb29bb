#!/usr/bin/env python3
"""Puts several `openvla serve` behind one address with Ray Serve.

    serve.py --replicas 2 --cpus 4 -- --checkpoint DIR --unnorm-key bridge_orig

Everything behind `--` goes to each `openvla serve`. A replica is an actor of Ray that reserves
--cpus CPUs, owns one `openvla serve` on a free port of its machine's loopback interface with as
many --threads, and forwards `POST /act` and `GET /healthz` to it; Ray Serve chooses the replica. A
server that has ended is started again before the next request of its replica; a replica that is
lost is replaced by Ray Serve. A request that was under way then gets a status of 500 or more.

Without --address, Ray starts on this machine alone. The address of clients is 127.0.0.1 unless
--host names another one, which needs `--api-key-file FILE` behind `--`. One line of JSON on stdout
says when clients can connect. SIGTERM and SIGINT end everything. See docs/serving.md.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import sys
import tempfile

LOOPBACK = "127.0.0.1"
# Options that this program passes to `openvla serve` itself.
OWN = ("--listen", "--json", "--threads")
START_ATTEMPTS = 4
# Seconds for loading a checkpoint.
LOAD_S = 600
# Requests that a replica has at a time: one in the policy, the next ones being decoded.
ONGOING = 4
# Requests that wait for a replica; further ones are answered with 503.
QUEUED = 64
# What of a request and of an answer is forwarded.
REQUEST_HEADERS = ("authorization", "content-type", "origin", "x-client-id", "x-deadline-ms")
ANSWER_HEADERS = ("content-type", "server-timing")
PATHS = (("POST", "/act"), ("GET", "/healthz"))


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], usage="%(prog)s OPTIONS -- OPENVLA_SERVE_OPTIONS"
    )
    parser.add_argument("--replicas", type=int, default=2, help="default 2")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of a replica (default 1)")
    parser.add_argument("--host", default=LOOPBACK, help=f"address for clients ({LOOPBACK})")
    parser.add_argument("--port", type=int, default=8000, help="port for clients (8000)")
    parser.add_argument("--openvla", default="openvla", help="the program, if not on the PATH")
    parser.add_argument("--address", help="an existing cluster; default: Ray on this machine alone")
    split = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:split]), argv[split + 1 :]
    if not command:
        parser.error("no options for `openvla serve`; write them behind `--`")
    given = [argument.split("=")[0] for argument in command]
    for name in OWN:
        if name in given:
            parser.error(f"{name} is passed to each server by this program; remove it behind `--`")
    if min(options.replicas, options.cpus) < 1:
        parser.error("--replicas and --cpus are 1 or more")
    if not is_loopback(options.host) and "--api-key-file" not in given:
        parser.error(f"--host {options.host} needs `--api-key-file FILE` behind `--`")
    return options, command


def is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Replica:
    """Forwards requests to an `openvla serve` of its own."""

    def __init__(self, command):
        self.command, self.process, self.errors = command, None, None
        self.starting, self.url, self.session = asyncio.Lock(), None, None

    async def server(self):
        """The URL of the server, which is started if there is none. Raises RuntimeError with a
        line when it does not start."""
        async with self.starting:
            if self.process is None or self.process.returncode is not None:
                self.url = await self.start()
        return self.url

    async def start(self):
        import aiohttp

        def end_with_parent():  # a killed replica must not leave its server behind
            import ctypes

            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG

        if self.session is None:
            self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        self.errors = tempfile.TemporaryFile()
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            stdout=asyncio.subprocess.PIPE,
            stderr=self.errors,
            preexec_fn=end_with_parent,
        )
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), LOAD_S)
        except asyncio.TimeoutError:
            self.process.kill()
            raise RuntimeError(f"`openvla serve` was not ready within {LOAD_S} s") from None
        if not line:
            await self.process.wait()
            self.errors.seek(0)
            lines = self.errors.read()[-4096:].decode(errors="replace").strip().splitlines()
            raise RuntimeError((lines or ["`openvla serve` ended without a line"])[-1])
        return f"http://{LOOPBACK}:{json.loads(line)['port']}"

    async def check_health(self):
        await self.server()

    async def __call__(self, request):
        import aiohttp

        if (request.method, request.url.path) not in PATHS:
            return answer(404, "there is POST /act and GET /healthz here")
        body = await request.body()
        try:
            url = await self.server()
        except RuntimeError as error:
            return answer(503, str(error))
        kept = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
        try:
            async with self.session.request(
                request.method, url + request.url.path, data=body, headers=kept
            ) as got:
                content = await got.read()
                kept = {name: got.headers[name] for name in ANSWER_HEADERS if name in got.headers}
                return response(got.status, content, kept)
        except aiohttp.ClientError as error:
            return answer(502, f"`openvla serve` was lost with this request: {error}")


def response(status, content, headers):
    from starlette.responses import Response

    return Response(content, status_code=status, headers=headers)


def answer(status, line):
    """An error as `openvla serve` writes it."""
    body = json.dumps({"error": " ".join(line.split())}).encode()
    return response(status, body, {"content-type": "application/json"})


def start(options, command, folder):
    """Starts or joins Ray, and the deployment; returns when clients can connect."""
    # Ray and its processes read these when they start.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # On a busy machine a process that has just begun exceeds the usual 5 and 10 s, and is killed.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")
    if options.address is None:
        # Despite its name, on all systems: without it Ray replaces 127.0.0.1 by the address of a
        # network interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray would run the policy at niceness 15.
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray
    from ray import serve

    logging = {"log_to_driver": False, "logging_level": "error"}
    if options.address is not None:
        ray.init(address=options.address, **logging)
    else:
        local = {
            "num_cpus": options.cpus * options.replicas,
            "include_dashboard": False,
            "object_store_memory": 200 << 20,
            "_node_ip_address": LOOPBACK,
            "_temp_dir": folder,
        }
        for left in reversed(range(START_ATTEMPTS)):
            try:
                ray.init(**local, **logging)
                break
            except Exception:
                # On a busy machine Ray's processes may exceed its fixed limit of 30 s.
                ray.shutdown()
                if left == 0:
                    raise
    serve.start(http_options={"host": options.host, "port": options.port})
    command = [options.openvla, "serve", "--listen", f"{LOOPBACK}:0", "--json", *command]
    deployment = serve.deployment(
        Replica,
        name="openvla",
        num_replicas=options.replicas,
        max_ongoing_requests=ONGOING,
        max_queued_requests=QUEUED,
        ray_actor_options={"num_cpus": options.cpus},
        health_check_period_s=5,
        health_check_timeout_s=LOAD_S,
    )
    serve.run(deployment.bind([*command, "--threads", str(options.cpus)]), name="openvla")


def end():
    import ray
    from ray import serve

    with contextlib.suppress(Exception):
        serve.shutdown()
    ray.shutdown()


class Ended(BaseException):
    """SIGTERM or SIGINT has come."""


def stop(*_):
    # Once: what follows is the end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise Ended


def main(argv):
    options, command = parse(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="rs", ignore_cleanup_errors=True) as folder:
        try:
            start(options, command, folder)
            print(json.dumps({"url": f"http://{options.host}:{options.port}"}), flush=True)
            while True:
                signal.pause()
        except Ended:
            return 0
        except Exception as error:  # Ray's types differ between versions
            print(f"ray_serve: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
        finally:
            end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
