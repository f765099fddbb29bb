"""A TCP proxy on loopback between the node and a policy server, which injects faults."""

import random
import socket
import threading
import time

BINARY = 2


class Proxy:
    """Forwards to `port`. Its faults change what has not been forwarded yet."""

    def __init__(self, port, seed=7):
        self.target = port
        self.random = random.Random(seed)
        self.open = threading.Event()  # whether anything is forwarded
        self.open.set()
        self.lock = threading.Lock()
        self.connections = set()
        self.once = None  # what happens to the next answer: "duplicate" or "outdated"
        self.loss = 0.0  # share of the answers that are lost: a stall of 2 s, or an end
        self.port = 0
        self.listen()

    def listen(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with self.lock:
            self.connections.add(client)
        server = None
        try:
            self.open.wait()
            server = socket.create_connection(("127.0.0.1", self.target))
            forward = threading.Thread(target=self.requests, args=(client, server), daemon=True)
            forward.start()
            self.answers(server, client)
        except OSError:
            pass
        finally:
            for end in filter(None, (client, server)):
                self.end(end)
            with self.lock:
                self.connections.discard(client)

    @staticmethod
    def end(connection):
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.close()

    def requests(self, client, server):
        try:
            while data := client.recv(1 << 16):
                self.open.wait()
                server.sendall(data)
        except OSError:
            pass
        self.end(server)

    def answers(self, server, client):
        """Forwards the handshake's answer and then frame by frame; a server's are not masked."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += exactly(server, 1)
        self.send(client, head)
        metadata, last = True, None
        while True:
            start = exactly(server, 2)
            size = start[1] & 127
            if size >= 126:
                start += exactly(server, 2 if size == 126 else 8)
                size = int.from_bytes(start[2:], "big")
            frame = start + exactly(server, size)
            if frame[0] & 15 != BINARY or metadata:
                metadata = metadata and frame[0] & 15 != BINARY
                self.send(client, frame)
                continue
            once, self.once = self.once, None
            if self.random.random() < self.loss:
                if self.random.random() < 0.5:
                    raise OSError("lost")
                time.sleep(2.0)
            if once == "outdated" and last:
                self.send(client, last)
            self.send(client, frame)
            if once == "duplicate":
                self.send(client, frame)
            last = frame

    def send(self, client, data):
        self.open.wait()
        client.sendall(data)

    # -- faults

    def hang(self):
        """Connections are accepted, and nothing is forwarded any more."""
        self.open.clear()

    def go_on(self):
        self.open.set()

    def kill(self):
        """Ends every connection; none is accepted any more."""
        # A thread that waits in accept() would still take one connection.
        self.end(self.listener)
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            self.end(connection)

    def stall(self, seconds):
        """Nothing is forwarded for a time; it comes later."""
        self.hang()
        threading.Timer(seconds, self.go_on).start()


def exactly(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise OSError("ended")
        data += part
    return data
