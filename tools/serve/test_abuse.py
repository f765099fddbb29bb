"""What harms other servers: large and broken bodies, slow clients, clients that leave, the end."""

import signal
import socket
import time
import unittest

import json_numpy
import numpy as np
import requests

from server import SCRIPTED, Server, wait_for

OPTIONS = ("--checkpoint", SCRIPTED)
IMAGE = np.zeros((480, 640, 3), np.uint8)
FIELDS = {
    "image": IMAGE,
    "wrist_image": IMAGE,
    "state": [0, 0, 0, 1],
    "instruction": "move to 1 0 0",
}


def raw(server, data):
    """A connection on which `data` was sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(data)
    return connection


def works(server):
    body = json_numpy.dumps(FIELDS)
    return requests.post(f"{server.url}/act", data=body, timeout=30).status_code == 200


class Abuse(unittest.TestCase):
    def test_two_hundred_megabytes(self):
        with Server(*OPTIONS) as server:
            self.assertTrue(works(server))
            before = server.peak()
            answer = requests.post(f"{server.url}/act", data=b"x" * 200_000_000, timeout=60)
            self.assertEqual(answer.status_code, 413)
            self.assertIn("at most 33554432 are taken", answer.json()["error"])

            def chunks():
                for _ in range(200):
                    yield b"x" * 1_000_000

            answer = requests.post(f"{server.url}/act", data=chunks(), timeout=60)
            self.assertEqual(answer.status_code, 413)
            # 32 MiB are taken before the chunked body is known to be too long.
            self.assertLess(server.peak() - before, 72 << 20)
            self.assertTrue(works(server))

    def test_malformed_and_truncated_bodies(self):
        body = json_numpy.dumps(FIELDS).encode()
        with Server(*OPTIONS) as server:
            session = requests.Session()
            places = [0, 1, 10, 30, 1000, len(body) // 2, len(body) - 40, len(body) - 1]
            for place in places:
                cut = session.post(f"{server.url}/act", data=body[:place])
                flipped = body[:place] + bytes([body[place] ^ 0x80]) + body[place + 1 :]
                for answer in (cut, session.post(f"{server.url}/act", data=flipped)):
                    self.assertIn(answer.status_code, (400, 422), place)
                    self.assertEqual(len(answer.json()["error"].splitlines()), 1)
            self.assertTrue(works(server))

    def test_slow_and_idle_clients(self):
        options = (*OPTIONS, "--header-timeout-s", "1", "--body-timeout-s", "1")
        with Server(*options, "--max-connections", "4") as server:
            head = b"POST /act HTTP/1.1\r\nhost: x\r\n"
            slow = [
                raw(server, head),
                raw(server, head + b"content-length: 1000\r\n\r\n{"),
                raw(server, b""),
                raw(server, b"\x16\x03\x01 no HTTP at all"),
            ]
            begun = time.monotonic()
            for connection in slow:
                while connection.recv(1000):
                    pass
                connection.close()
            self.assertLess(time.monotonic() - begun, 20)
            wait_for(lambda: works(server))

    def test_clients_that_leave(self):
        body = json_numpy.dumps(FIELDS).encode()
        head = f"POST /act HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with Server(*OPTIONS) as server:
            self.assertTrue(works(server))
            before = server.descriptors()
            for place in (0, 20, len(head), len(head) + 1000, len(head) + len(body)):
                for _ in range(20):
                    raw(server, (head + body)[:place]).close()
            wait_for(lambda: server.descriptors() <= before)
            self.assertTrue(works(server))

    def test_the_end(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with Server(*OPTIONS) as server:
                idle = raw(server, b"")
                kept = requests.Session()
                body = json_numpy.dumps(FIELDS)
                self.assertEqual(kept.post(f"{server.url}/act", data=body).status_code, 200)
                status, error = server.terminate(number)
                self.assertEqual((status, error), (0, ""))
                idle.close()

    def test_a_server_that_does_not_start(self):
        with Server(*OPTIONS) as server:
            taken = f"127.0.0.1:{server.port}"
            free = "127.0.0.1:0"
            for listen, more, expected in (
                (taken, (), f"cannot listen on {taken}: Address already in use"),
                ("0.0.0.0:0", (), "can be reached from other machines"),
                (free, ("--rtc", "guided"), "--rtc guided"),
                (free, ("--api-key-file", "/nonexistent"), "/nonexistent"),
            ):
                with self.assertRaises(RuntimeError) as refused:
                    Server(*OPTIONS, *more, listen=listen)
                self.assertIn(expected, str(refused.exception))
                self.assertEqual(len(str(refused.exception).strip().splitlines()), 1)


if __name__ == "__main__":
    unittest.main()
