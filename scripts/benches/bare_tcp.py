"""Plain TCP: the reference of gossip.py for blobs, in a process that imports nothing of ours.

Argument: the file that is sent to whoever connects first and sends a byte.
"""

import socket
import sys
from functools import partial
from pathlib import Path

import trio

from benches.processes import obey

BLOCK_BYTES = 1 << 20


async def main(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def port() -> int:
            return int(server.getsockname()[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, _send, server, path, abandon_on_cancel=True))
            await obey({"port": port})
            nursery.cancel_scope.cancel()


def _send(server: socket.socket, path: Path) -> None:
    conn, _ = server.accept()
    with conn, path.open("rb") as file:
        conn.recv(1)
        while block := file.read(BLOCK_BYTES):
            conn.sendall(block)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
