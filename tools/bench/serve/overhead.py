"""What `openvla serve` adds to an inference: the time from the first byte of a request to the last
byte of its answer on loopback, less the time in the policy. Requests are encoded before the time
begins, and sent on connections that stay open, so that the client's own work is left out."""

import argparse
import base64
import io
import json
import os
import pathlib
import platform
import socket
import struct
import threading
import time

import msgpack
import numpy as np
from openpi_client import msgpack_numpy
from PIL import Image

from server import SCRIPTED, Server

SIZE = (640, 480)


def picture():
    """A scene with edges and a little noise, which compresses as a camera's image does."""
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    scene = np.stack([columns % 256, rows % 256, (columns // 40 * 35 + rows // 30 * 50) % 256], 2)
    noise = np.random.default_rng(7).integers(0, 9, scene.shape)
    return (scene // 2 + 40 + noise).astype(np.uint8)


def array(values):
    data = base64.b64encode(values.tobytes()).decode()
    return {"__numpy__": data, "dtype": values.dtype.str, "shape": values.shape}


class Act:
    """`POST /act` on a connection that stays open."""

    def __init__(self, port, image):
        # The second camera costs its decoding too: a picture of one pixel.
        small = array(np.zeros((1, 1, 3), np.uint8))
        fields = {"image": array(image), "wrist_image": small, "state": [0, 0, 0, 1]}
        body = json.dumps({**fields, "instruction": "move to 1 0 0"}).encode()
        head = f"POST /act HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        self.message = head.encode() + body
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def request(self):
        """Milliseconds of a request, and of the policy in it."""
        begun = time.perf_counter()
        self.connection.sendall(self.message)
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.connection.recv(65536)
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
        length = int(headers["content-length"])
        while len(rest) < length:
            rest += self.connection.recv(65536)
        milliseconds = (time.perf_counter() - begun) * 1e3
        assert head.startswith(b"HTTP/1.1 200"), rest
        self.buffer = rest[length:]
        return milliseconds, float(headers["server-timing"].split("dur=")[1].split(",")[0])


class OpenPi:
    """openpi's websocket."""

    def __init__(self, port, image):
        small = np.zeros((1, 1, 3), np.uint8)
        fields = {"image": image, "wrist_image": small, "state": np.array([0.0, 0, 0, 1])}
        data = msgpack_numpy.packb({**fields, "prompt": "move to 1 0 0"})
        # A frame of a client: masked, here with zeros.
        self.message = b"\x82\xff" + struct.pack(">Q", len(data)) + bytes(4) + data
        self.connection = socket.create_connection(("127.0.0.1", port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        head += f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
        self.connection.sendall(head.encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.connection.recv(65536)
        self.buffer = self.buffer.partition(b"\r\n\r\n")[2]
        self.receive()  # the metadata

    def take(self, count):
        while len(self.buffer) < count:
            self.buffer += self.connection.recv(65536)
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def receive(self):
        first, length = self.take(2)
        assert first == 0x82, first
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
        return self.take(length)

    def request(self):
        """Milliseconds of a request, and of the policy in it."""
        begun = time.perf_counter()
        self.connection.sendall(self.message)
        answer = self.receive()
        milliseconds = (time.perf_counter() - begun) * 1e3
        return milliseconds, msgpack.unpackb(answer)["server_timing"]["infer_ms"]


def measured(client, image, requests, clients, port):
    """Overheads of all requests, milliseconds, and requests per second."""
    results = [[] for _ in range(clients)]
    connections = [client(port, image) for _ in range(clients)]
    for connection in connections:
        connection.request()

    def run(place):
        for _ in range(requests // clients):
            milliseconds, inference = connections[place].request()
            results[place].append(milliseconds - inference)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    everything = np.concatenate(results)
    return everything, len(everything) / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=1)
    given = parser.parse_args()
    raw = picture()
    file = io.BytesIO()
    Image.fromarray(raw).save(file, "JPEG", quality=90)
    jpeg = np.frombuffer(file.getvalue(), np.uint8)
    models = pathlib.Path("/proc/cpuinfo").read_text().split("model name\t: ")
    model = models[1].splitlines()[0] if len(models) > 1 else platform.processor()
    load = os.getloadavg()[0]
    print(f"{model}, {os.cpu_count()} cores, load {load:.1f}; 640 x 480, {given.clients} clients")
    print()
    print("| request | bytes | p50 ms | p99 ms | requests per s |")
    print("|---|---|---|---|---|")
    with Server("--checkpoint", SCRIPTED) as server:
        for name, client, image in (
            ("/act, raw", Act, raw),
            ("/act, JPEG file", Act, jpeg),
            ("openpi, raw", OpenPi, raw),
            ("openpi, JPEG file", OpenPi, jpeg),
        ):
            overhead, rate = measured(client, image, given.requests, given.clients, server.port)
            p50, p99 = np.percentile(overhead, [50, 99])
            size = len(client(server.port, image).message)
            print(f"| {name} | {size} | {p50:.2f} | {p99:.2f} | {rate:.0f} |")


if __name__ == "__main__":
    main()
