"""What stands in a hospital's network: a proxy that lets CONNECT through, and one that opens TLS with its own authority."""

import datetime
import ipaddress
import select
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Listener:
    """A port of 127.0.0.1 and a function for each connection, in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(near,), daemon=True).start()

    def _answer(self, near: socket.socket) -> None:
        with suppress(OSError), near:
            self._serve(near)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)
        self._listener.close()


def pump(one: socket.socket, other: socket.socket, keep: bytearray | None = None) -> None:
    """Carry bytes both ways until one side ends."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            data = arrived(ready)
            if data is None:
                continue
            if not data:
                return
            if keep is not None:
                keep += data
            (other if ready is one else one).sendall(data)


def arrived(end: socket.socket) -> bytes | None:
    """What is there to be read; None where it was a session ticket only, after which a blocking read would wait."""
    end.setblocking(False)
    try:
        data = end.recv(1 << 16)
        while isinstance(end, ssl.SSLSocket) and end.pending():
            data += end.recv(end.pending())
        return data
    except ssl.SSLWantReadError:
        return None
    finally:
        end.setblocking(True)


class ConnectProxy(Listener):
    """Lets CONNECT through, for whoever says `user:password` where one is wanted. `asked`: the hosts."""

    def __init__(self, wanted: str | None = None) -> None:
        self._wanted, self.asked = wanted, list[str]()
        super().__init__(self._tunnel)

    def _tunnel(self, near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = near.recv(4096)
            if not data:
                return
            head += data
        method, target, *_ = head.decode("latin-1").split()
        if method != "CONNECT":
            near.sendall(b"HTTP/1.1 405 Only CONNECT\r\n\r\n")
            return
        if self._wanted and b64encode(self._wanted.encode()) not in head:
            near.sendall(b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
            return
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        try:
            far = socket.create_connection((host, int(port)), timeout=5)
        except OSError:
            near.sendall(b"HTTP/1.1 503 Cannot reach it\r\nContent-Length: 0\r\n\r\n")
            return
        with far:
            near.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
            pump(near, far)


class Interceptor(Listener):
    """Opens TLS with a certificate of its own authority, reads everything (`seen`), and passes it on."""

    def __init__(self, folder: Path, target: int) -> None:
        self._target, self.seen = target, bytearray()
        self.authority = folder / "authority.pem"
        certificate, key = issue(folder, "Hospital Trust Inspection")
        self._inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inside.load_cert_chain(certificate, key)
        self._outside = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._outside.check_hostname, self._outside.verify_mode = False, ssl.CERT_NONE
        super().__init__(self._open)

    def _open(self, near: socket.socket) -> None:
        with (
            self._inside.wrap_socket(near, server_side=True) as inner,
            socket.create_connection(("127.0.0.1", self._target), timeout=5) as far,
            self._outside.wrap_socket(far) as outer,
        ):
            outer.settimeout(None)
            pump(inner, outer, self.seen)


def issue(folder: Path, organisation: str, host: str = "127.0.0.1", days: int = 365) -> tuple[Path, Path]:
    """An authority (`folder`/authority.pem), and a certificate for `host` with its key."""
    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)])
    now = datetime.datetime.now(datetime.UTC)

    def build(name: x509.Name, key: ec.EllipticCurvePrivateKey, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )

    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    root_certificate = build(root_name, root, True).sign(root, hashes.SHA256())
    certificate = build(own, leaf, False).add_extension(names, critical=False).sign(root, hashes.SHA256())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "authority.pem").write_bytes(root_certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "leaf.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "leaf.key").write_bytes(key)
    return folder / "leaf.pem", folder / "leaf.key"
