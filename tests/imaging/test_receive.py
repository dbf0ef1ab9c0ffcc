"""Receiving from a PACS: real associations on loopback, with pynetdicom as the sender."""

import datetime
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydicom import dcmread
from pydicom.uid import MPEG2MPML, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind, Verification
from tests.imaging.samples import KEY, WHEEL

from primum.errors import InputError, MachineError
from primum.imaging import pseudonym
from primum.imaging.deidentify import pseudonymous_uid
from primum.imaging.inbox import Inbox
from primum.imaging.receive import Certificates, Door, receiving

CT = WHEEL / "CT_small.dcm"
SENT = [
    "CT_small.dcm",
    "SC_rgb_rle_16bit.dcm",
    "MR_small_bigendian.dcm",
    "JPEG2000.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPGExtended.dcm",
]


@contextmanager
def _association(port: int, *files: Path, title: str = "PRIMUM", own: str = "PACS", **options: Any) -> Iterator[Any]:
    entity = AE(ae_title=own)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.add_requested_context(Verification)
    for path in files:
        dataset = dcmread(path, stop_before_pixels=True)
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=title, **options)
    connection = association.dul.socket and association.dul.socket.socket
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        if connection is not None:
            connection.close()
        entity.shutdown()


@pytest.fixture(scope="module")
def _service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Inbox, int]]:
    inbox = Inbox(tmp_path_factory.mktemp("to"), KEY)
    with receiving(inbox, Door(port=0)) as port:
        yield inbox, port


@pytest.fixture
def served(_service: tuple[Inbox, int], tmp_path: Path) -> tuple[Inbox, int]:
    """An inbox without anything in it, and the port of its service: one for all these tests, stopping takes 0.5 s."""
    inbox, port = _service
    inbox.folder, inbox.new, inbox.there = tmp_path, 0, 0
    inbox.aside.clear()
    return inbox, port


def test_images_are_received_whole_and_without_the_patient(tmp_path: Path) -> None:
    inbox, told = Inbox(tmp_path, KEY), []
    files = [WHEEL / name for name in SENT]
    with receiving(inbox, Door(port=0), lambda: told.append(1)) as port, _association(port, *files) as association:
        assert association.send_c_echo().Status == 0
        assert [association.send_c_store(path).Status for path in files] == [0] * len(files)
    assert (inbox.new, inbox.there, len(told)) == (len(files), 0, len(files)) and not inbox.aside
    written = {path.stem: path for path in tmp_path.rglob("*.dcm")}
    for path in files:
        before = dcmread(path)
        lies = written[pseudonymous_uid(before.SOPInstanceUID, KEY)]
        assert lies.parts[-3] == pseudonym(str(before.PatientID), KEY)
        data = lies.read_bytes()
        for value in (str(before.PatientName), before.SOPInstanceUID, before.StudyInstanceUID):
            assert value.encode() not in data
        assert before.file_meta.TransferSyntaxUID.encode() in data


def test_what_cannot_be_used_is_refused_in_words(served: tuple[Inbox, int], tmp_path: Path) -> None:
    (inbox, port), dose = served, WHEEL / "rtdose.dcm"
    with _association(port, dose, CT) as association:
        with pytest.raises(ValueError, match="No presentation context"):
            association.send_c_store(dose)
        anonymous = dcmread(CT)
        del anonymous.PatientID
        answer = association.send_c_store(anonymous)
    assert answer.Status == 0xC000 and "PatientID" in answer.ErrorComment
    assert not list(tmp_path.rglob("*.dcm")) and sum(inbox.aside.values()) == 1


def test_other_services_and_syntaxes_are_not_offered(served: tuple[Inbox, int]) -> None:
    entity = AE()
    entity.add_requested_context(PatientRootQueryRetrieveInformationModelFind)
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", [MPEG2MPML])
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.4", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = entity.associate("127.0.0.1", served[1], ae_title="PRIMUM")
    accepted = [str(context.abstract_syntax) for context in association.accepted_contexts]
    association.release()
    assert accepted == ["1.2.840.10008.5.1.4.1.1.4"]


def test_only_named_senders_who_know_our_title(tmp_path: Path) -> None:
    inbox, said = Inbox(tmp_path, KEY), list[str]()
    asked = (("PRIMUM", "PACS", True), ("OTHER", "PACS", False), ("PRIMUM", "EVIL", False), ("ELSE", "PACS", False))
    with receiving(inbox, Door(port=0, senders=("PACS", "CT1")), say=said.append) as port:
        for title, own, accepted in asked:
            with _association(port, title=title, own=own) as association:
                assert association.is_established == accepted
    assert said == [
        "Rejected: 'PACS' asked for the AE title 'OTHER', and ours is 'PRIMUM'. Set one as the other (--title).",
        "Rejected: 'EVIL' is not among those who may send (--from).",
    ]
    assert inbox.rejected == {"asked for another AE title": 2, "is not among those who may send": 1}


def test_too_many_associations_are_rejected(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, KEY)
    with receiving(inbox, Door(port=0, most_associations=1)) as port, _association(port) as first:
        assert first.is_established
        with _association(port) as second:
            assert second.is_rejected
    assert inbox.rejected == {"too many at once": 1}


def _count(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_association_that_is_killed_leaves_nothing(served: tuple[Inbox, int], tmp_path: Path) -> None:
    """The sender's socket is cut in the middle of a data set; afterwards the next one is served."""
    inbox, port = served

    def cut(association: Any) -> None:
        connection, send = association.dul.socket, association.dul.socket.send

        def half(data: bytes) -> None:
            send(data[: len(data) // 2])
            with suppress(OSError):  # on a slow machine the other side was quicker
                connection.socket.shutdown(socket.SHUT_RDWR)

        connection.send = half

    with _association(port, CT) as association:
        cut(association)
        assert "Status" not in association.send_c_store(CT)
    assert inbox.new == 0 and not _count(tmp_path)
    with _association(port, CT) as association:
        assert association.send_c_store(CT).Status == 0
    assert inbox.new == 1 and len(_count(tmp_path)) == 1


def test_objects_larger_than_allowed_are_hung_up_on_and_many_small_ones_are_not(tmp_path: Path) -> None:
    inbox, large = Inbox(tmp_path, KEY), WHEEL / "examples_overlay.dcm"
    with receiving(inbox, Door(port=0, largest=60_000)) as port:
        with _association(port, CT) as association:
            assert [association.send_c_store(CT).Status for _ in range(4)] == [0] * 4
        with _association(port, large) as association:
            assert "Status" not in association.send_c_store(large)
    assert (inbox.new, inbox.there, len(_count(tmp_path))) == (1, 3, 1) and not inbox.aside


STRANGE = (b"\x04\x00\xff\xff\xff\xff" + bytes(100), b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\x00\x00\x00\x04abcd", b"")


def test_strangers_who_speak_something_else_are_hung_up_on(served: tuple[Inbox, int]) -> None:
    port = served[1]
    for sent in STRANGE:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(sent)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(100):
                continue
    with _association(port) as association:
        assert association.send_c_echo().Status == 0


def _certificate(
    folder: Path, name: str, issuer: tuple[x509.Certificate, Any] | None = None
) -> tuple[x509.Certificate, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(issuer[0].subject if issuer else subject, subject, key.public_key(), x509.random_serial_number(),
                                start, start + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )  # fmt: skip
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*form))
    return certificate, key


def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    authority = _certificate(tmp_path, "authority")
    for name in ("node", "pacs"):
        _certificate(tmp_path, name, authority)
    files = Certificates(tmp_path / "node.pem", tmp_path / "node.key", tmp_path / "authority.pem")
    context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    context.load_cert_chain(tmp_path / "pacs.pem", tmp_path / "pacs.key")
    nobody = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    inbox = Inbox(tmp_path / "to", KEY)
    with receiving(inbox, Door(port=0, certificates=files)) as port:
        with _association(port, CT, tls_args=(context, "localhost")) as association:
            assert association.send_c_store(CT).Status == 0
        with _association(port, CT, tls_args=(nobody, "localhost")) as association:
            assert not association.is_established
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(b"\x01\x00" + bytes(100))
            with suppress(ConnectionResetError):
                assert not plain.recv(10).startswith(b"\x02")
    assert inbox.new == 1


@pytest.mark.parametrize(
    "options",
    [{"address": "0.0.0.0"}, {"address": "192.168.1.4"}, {"title": ""}, {"title": "A" * 17}, {"senders": ("A\\B",)}, {"address": "pacs.example"}],
)  # fmt: skip
def test_doors_that_are_open_to_everybody_or_misnamed_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Door(**options)
    Door(address="192.168.1.4", senders=("PACS",))


def test_a_port_in_use_and_bad_certificates_are_said(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, KEY)
    with socket.create_server(("127.0.0.1", 0)) as other:
        door = Door(port=other.getsockname()[1])
        with pytest.raises(MachineError, match="cannot be opened"), receiving(inbox, door):
            pass
    with (
        pytest.raises(InputError, match="certificate files"),
        receiving(inbox, Door(port=0, certificates=Certificates(CT, CT))),
    ):
        pass
