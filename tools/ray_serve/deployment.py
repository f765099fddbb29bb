"""What serve.py starts: Ray, Ray Serve and the replicas. Not for the command line.

Its argument is serve.py's settings as JSON. It writes one line of JSON to stdout, {"url": ...} or
{"error": ..., "again": whether another attempt may succeed}. When its stdin ends, it ends what it
has started. It takes no signals: Ray installs handlers of its own, which print a trace.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import signal
import sys
import tempfile

LOOPBACK = "127.0.0.1"
# Seconds for loading a checkpoint.
LOAD_S = 600
# Requests that a replica has at a time: one in the policy, the next ones being decoded.
ONGOING = 4
# Requests that wait for a replica; further ones are answered with 503.
QUEUED = 64
# Seconds for requests under way at the end, less than serve.py's limit for all of the end.
DRAIN_S = 4
# What of a request and of an answer is forwarded.
REQUEST_HEADERS = ("authorization", "content-type", "origin", "x-client-id", "x-deadline-ms")
ANSWER_HEADERS = ("content-type", "server-timing")
PATHS = (("POST", "/act"), ("GET", "/healthz"))
PR_SET_PDEATHSIG = 1


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

        if self.session is None:
            # A connection for each request: one that is kept may be closed by the server just when
            # a request is written to it, and it is not safe to send that request again.
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
            )
        self.errors = tempfile.TemporaryFile()
        libc = ctypes.CDLL(None)  # before the fork, behind which nothing may be loaded
        self.process = await asyncio.create_subprocess_exec(
            *self.command,
            stdout=asyncio.subprocess.PIPE,
            stderr=self.errors,
            # A killed replica must not leave its server behind.
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
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
            usage = [line for line in lines if line.startswith("error: ")]
            found = usage[:1] or lines[-1:] or ["`openvla serve` ended without a line"]
            raise RuntimeError(found[0])
        return f"http://{LOOPBACK}:{json.loads(line)['port']}"

    async def check_health(self):
        await self.server()

    async def __call__(self, request):
        import aiohttp

        if (request.method, request.url.path) not in PATHS:
            return answer(404, "there is POST /act and GET /healthz here")
        body = await request.body()
        headers = {
            name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers
        }
        try:
            try:
                return await self.forward(request, body, headers)
            except aiohttp.ClientConnectorError:
                # The server has just ended, and has not read anything of the request.
                await asyncio.wait_for(self.process.wait(), 10)
                return await self.forward(request, body, headers)
        except RuntimeError as error:
            return answer(503, str(error))
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            return answer(502, f"`openvla serve` was lost with this request: {error}")

    async def forward(self, request, body, headers):
        url = await self.server() + request.url.path
        async with self.session.request(request.method, url, data=body, headers=headers) as got:
            kept = {name: got.headers[name] for name in ANSWER_HEADERS if name in got.headers}
            return response(got.status, await got.read(), kept)


def response(status, content, headers):
    from starlette.responses import Response

    return Response(content, status_code=status, headers=headers)


def answer(status, line):
    """An error as `openvla serve` writes it."""
    body = json.dumps({"error": " ".join(line.split())}).encode()
    return response(status, body, {"content-type": "application/json"})


class Failed(Exception):
    """A line for the user, and whether another attempt may succeed."""

    def __init__(self, error, again=False):
        # Ray's errors contain whole traces, with the cause in the last line.
        lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
        super().__init__((lines or [type(error).__name__])[-1][:500])
        self.again = again


def start_ray(settings):
    """Starts Ray on this machine, or joins a cluster."""
    # Ray and its processes read these when they start.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # On a busy machine a process that has just begun exceeds the usual 5 and 10 s, and is killed.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "60")
    if settings["address"] is None:
        # Despite its name, on all systems: without it Ray replaces 127.0.0.1 by the address of a
        # network interface.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Ray would run the policy at niceness 15.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # Without one, Ray writes a token for all of the user's clusters to the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    logging = {"log_to_driver": False, "logging_level": "error"}
    if settings["address"] is None:
        try:
            ray.init(
                num_cpus=settings["cpus"] * settings["replicas"],
                include_dashboard=False,
                object_store_memory=200 << 20,
                _node_ip_address=LOOPBACK,
                _temp_dir=settings["folder"],
                **logging,
            )
        except Exception as error:
            # See START_ATTEMPTS in serve.py.
            raise Failed(f"Ray does not start: {error}", again=True) from None
        return
    try:
        ray.init(address=settings["address"], **logging)
    except Exception as error:  # Ray's types differ between versions
        raise Failed(f"no Ray cluster at {settings['address']}: {error}") from None
    with contextlib.suppress(ValueError):
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        ray.shutdown()
        raise Failed("Ray Serve runs in this cluster already, with an address of its own")


def deploy(settings):
    """Starts Ray Serve with the replicas; returns when clients can connect."""
    from ray import serve

    try:
        serve.start(http_options={"host": settings["host"], "port": settings["port"]})
        deployment = serve.deployment(
            Replica,
            name="openvla",
            num_replicas=settings["replicas"],
            max_ongoing_requests=ONGOING,
            max_queued_requests=QUEUED,
            ray_actor_options={"num_cpus": settings["cpus"]},
            health_check_period_s=5,
            health_check_timeout_s=LOAD_S,
            graceful_shutdown_timeout_s=DRAIN_S,
            graceful_shutdown_wait_loop_s=0.5,
        )
        serve.run(deployment.bind(settings["command"]), name="openvla")
    except Exception as error:
        raise Failed(reason_of_replica() or error) from None


def reason_of_replica():
    """Why a replica did not start, which the error of `serve.run` does not say."""
    from ray import serve

    with contextlib.suppress(Exception):  # there may be no Ray Serve
        found = serve.status().applications["openvla"].deployments["openvla"].message
        return found.replace("RuntimeError: ", "")
    return None


def end():
    import ray
    from ray import serve

    with contextlib.suppress(Exception):
        serve.shutdown()
    ray.shutdown()


def main(settings):
    # Whatever Ray prints must not come between the lines for serve.py.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        start_ray(settings)
        try:
            deploy(settings)
            url = f"http://{settings['host']}:{settings['port']}"
            print(json.dumps({"url": url}), file=lines, flush=True)
            sys.stdin.read()
        finally:
            end()
    except Failed as error:
        print(json.dumps({"error": str(error), "again": error.again}), file=lines, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
