"""A TCP proxy that can be told to cut every connection through it after so many more bytes."""

import contextlib
import socket
import threading


class CuttingProxy:
    """Forwards to `target`; `cut_after(k)` ends all its connections once k more bytes have come, in either direction."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.passed = 0
        self._cut_at: int | None = None
        self.cuts = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, size: int) -> None:
        """Cut once, after `size` more bytes."""
        with self._lock:
            self._cut_at = self.passed + size

    def forget(self) -> None:
        """Cut nothing any more."""
        with self._lock:
            self._cut_at = None

    def close(self) -> None:
        """Accept nothing more, and end what is open."""
        self._listener.close()
        self._end_all()

    def _accept(self) -> None:
        host, port = self.target.rsplit(":", 1)
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection((host, int(port)), 5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data[: self._allowed(len(data))])
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _allowed(self, size: int) -> int:
        """How many of these bytes may pass; everything is cut if that is not all of them."""
        with self._lock:
            left = size if self._cut_at is None else min(size, self._cut_at - self.passed)
            self.passed += left
            cut = self._cut_at is not None and self.passed >= self._cut_at
            if cut:
                self._cut_at, self.cuts = None, self.cuts + 1
        if cut:
            self._end_all()
        return left

    def _end_all(self) -> None:
        with self._lock:
            ends = list(self._open)
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
