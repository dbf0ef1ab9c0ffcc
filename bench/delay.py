"""TCP proxies that hold every byte back for a while: a wide-area network on one machine.

python -m bench.delay SECONDS HOST:PORT HOST:PORT ...     prints one address a target, then runs until it is ended
"""

import queue
import socket
import sys
import threading
import time

_CHUNK = 1 << 18


def serve(target: str, seconds: float) -> str:
    """Start a proxy to `target`; its address. Each direction is delayed by `seconds`."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, target, seconds), daemon=True).start()
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _accept(listener: socket.socket, target: str, seconds: float) -> None:
    host, port = target.rsplit(":", 1)
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection((host, int(port)), 5)
        except OSError:
            near.close()
            continue
        far.settimeout(None)
        for source, sink in ((near, far), (far, near)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting: queue.Queue[tuple[float, bytes]] = queue.Queue()
            threading.Thread(target=_read, args=(source, waiting, seconds), daemon=True).start()
            threading.Thread(target=_write, args=(sink, waiting), daemon=True).start()


def _read(source: socket.socket, waiting: "queue.Queue[tuple[float, bytes]]", seconds: float) -> None:
    data = b"more"
    while data:
        try:
            data = source.recv(_CHUNK)
        except OSError:
            data = b""
        waiting.put((time.monotonic() + seconds, data))


def _write(sink: socket.socket, waiting: "queue.Queue[tuple[float, bytes]]") -> None:
    while True:
        due, data = waiting.get()
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            if not data:
                sink.shutdown(socket.SHUT_RDWR)
                return
            sink.sendall(data)
        except OSError:
            return


if __name__ == "__main__":
    for address in sys.argv[2:]:
        print(serve(address, float(sys.argv[1])), flush=True)
    threading.Event().wait()
