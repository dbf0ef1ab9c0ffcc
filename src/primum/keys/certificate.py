"""TLS: self-signed certificates that the other side pins, and contexts that speak TLS 1.3 only."""

import datetime
import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from primum.disk import write
from primum.errors import InputError

LIFETIME_DAYS: Final = 825
WARN_DAYS: Final = 60


@dataclass(frozen=True)
class CertificateFiles:
    """Paths of a certificate and its private key, both PEM."""

    certificate: Path
    private_key: Path

    def pem(self) -> str:
        """The certificate, as it goes into join and deployment files."""
        try:
            return self.certificate.read_text()
        except UnicodeDecodeError:
            raise InputError(f"{self.certificate} is not in PEM form.", "Restore it from a copy.") from None


def load_or_make(folder: Path, *hosts: str) -> CertificateFiles:
    """The certificate in `folder` (tls.pem, tls.key), made for `hosts` (names or addresses) if it is not there."""
    files = CertificateFiles(folder / "tls.pem", folder / "tls.key")
    if not (files.certificate.exists() and files.private_key.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write(files.private_key, private, private=True)
        write(files.certificate, _self_signed(key, hosts).public_bytes(serialization.Encoding.PEM), private=True)
    return files


def _self_signed(key: ec.EllipticCurvePrivateKey, hosts: tuple[str, ...]) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=LIFETIME_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def certificate_digest(pem: str) -> str:
    """SHA-256 of the certificate, in hex."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError:
        raise InputError("The certificate is not in PEM form.", "Ask for the file again.") from None


def hosts_of(pem: str) -> tuple[str, ...]:
    """The names and addresses that the certificate is for."""
    names = _parse(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)


def days_left(pem: str) -> int:
    """Whole days until the certificate ends; negative when it has ended."""
    return (_parse(pem).not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days


def ending(pem: str, whose: str, hint: str) -> str | None:
    """Words for whoever should act if the certificate ends within 60 days, else None."""
    left = days_left(pem)
    if left >= WARN_DAYS:
        return None
    when = f"ends in {left} days" if left >= 0 else "has ended"
    return f"Warning: the certificate of {whose} {when}. {hint}"


def _parse(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise InputError("The certificate is not in PEM form.", "Ask for the file again.") from None


def shown_digest(connection: ssl.SSLSocket | ssl.SSLObject) -> str:
    """SHA-256 of the certificate that the other side shows, in hex."""
    return hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()


def client_context(trusted_pem: str, own: CertificateFiles | None = None) -> ssl.SSLContext:
    """TLS 1.3 that accepts exactly the certificate `trusted_pem`; shows `own` where the server asks for one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=trusted_pem)
    except (ssl.SSLError, ValueError):
        raise InputError("The certificate is not in PEM form.", "Ask for the file again.") from None
    if own is not None:
        context.load_cert_chain(own.certificate, own.private_key)
    return context


def any_certificate_context() -> ssl.SSLContext:
    """TLS 1.3 that checks no certificate: only for public statements that carry a signature of their own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(own: CertificateFiles, clients_pem: str | None = None) -> ssl.SSLContext:
    """TLS 1.3 with certificate `own`; with `clients_pem`, only clients that show exactly one of those are let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(own.certificate, own.private_key)
    if clients_pem is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients_pem)
        # each is trusted by itself: else OpenSSL takes the first of several with one host name for an issuer
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
