"""A proxy on loopback that tunnels (HTTP CONNECT) whatever it is asked for to one port, and records the requests."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class ConnectProxy:
    """The proxy, a context manager."""

    def __init__(self, *, to_port: int) -> None:
        self.asked: list[str] = []
        """Heads of the requests."""
        self._to_port = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="proxy")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._sockets):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096)
                self.asked.append(head.decode())
                server = socket.create_connection(("127.0.0.1", self._to_port))
                self._sockets.append(server)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                for source, target in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=_copy, args=(source, target), name="proxy"))
                    self._threads[-1].start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
