"""All that goes over the loopback interface in a whole `primum demo`, searched for what must not be readable in it.

Recorded with a packet socket (it needs CAP_NET_RAW, as root has), of all connections to ports that the demo's processes
listen on, put together by connection. Searched for: stretches of every image file, and of DICOM pixels; file names;
patients, institution and other DICOM values; class names; and what the processes had plain inside (`faults_traffic_hook`
keeps it): features, labels, pseudonyms, gradients, update vectors, tables, a data owner's features and answers. In the
encodings that we use: as bytes, packed in the ring, as float32 and float64, in hex and in base64, texts in UTF-16 too.

`traffic_found` must be 0. `planted_found`: the same search finds vectors and texts where TLS is not begun and masks are
not added. `foreign_connections`: connections of any of the demo's processes to elsewhere than this machine,
looked for ten times a second.
"""

import itertools
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from tests.integration.cluster import descendants, open_sockets

from bench import faults_traffic_hook
from bench.faults_needles import PLANTED, needles_of
from primum.errors import MachineError

Flow = tuple[str, int, str, int]
_ETHERNET, _EVERY_PROTOCOL, _TCP = 14, 3, 6
_BUFFER = 1 << 28
_LOOK = 0.1  # seconds between two looks at the sockets
_TURNS = 5  # looks between two at which processes there are
_LOCAL = re.compile(r"^(127\.|::1$|::ffff:127\.|0\.0\.0\.0$|::$)")
_REPOSITORY = Path(__file__).resolve().parent.parent

# -- recording ----------------------------------------------------------------------------------------------------------


class Recorder:
    """Keeps the payload of every TCP packet on the loopback interface, in the order in which they come."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(_EVERY_PROTOCOL))
        except PermissionError:
            raise MachineError("Packets cannot be recorded by this user.", "Run it as root.") from None
        self._socket.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self.flows: dict[Flow, list[bytes]] = defaultdict(list)
        self.dropped = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        time.sleep(0.3)
        self._over.set()
        self._thread.join()
        statistics = self._socket.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
        self.dropped = struct.unpack("II", statistics)[1]
        self._socket.close()

    def _work(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                packet, about = self._socket.recvfrom(1 << 17)
                if about[2] != 4:  # PACKET_OUTGOING: each packet comes twice on this interface
                    self._keep(packet[_ETHERNET:])

    def _keep(self, packet: bytes) -> None:
        if packet[0] >> 4 == 4:
            start, kind = 4 * (packet[0] & 15), packet[9]
            near, far = (socket.inet_ntop(socket.AF_INET, packet[at : at + 4]) for at in (12, 16))
            end = int.from_bytes(packet[2:4], "big") or len(packet)
        else:
            start, kind = 40, packet[6]
            near, far = (socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24))
            end = (40 + int.from_bytes(packet[4:6], "big")) if packet[4:6] != b"\0\0" else len(packet)
        if kind != _TCP:
            return
        source, target = struct.unpack_from(">HH", packet, start)
        payload = packet[start + 4 * (packet[start + 12] >> 4) : end]
        if payload:
            self.flows[near, source, far, target].append(payload)

    def bytes_of(self, ports: set[int]) -> bytes:
        """All connections with one end at these ports, each way together."""
        return b"\n\0\n".join(
            b"".join(parts) for (_, source, _, target), parts in self.flows.items() if {source, target} & ports
        )


@dataclass
class Watch:
    """Ports that a process and all below it listen on, and whoever they are connected with, looked at again and again."""

    pid: int
    ports: set[int] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        pids: list[int] = []
        for turn in itertools.count():
            if turn % _TURNS == 0:
                pids = [self.pid, *descendants(self.pid)]
            if self._over.wait(_LOOK):
                return
            for opened in open_sockets(pids):
                self._note(*opened)

    def _note(self, kind: str, near: str, far: str, listens: bool) -> None:
        if listens:
            self.ports.add(int(near.rpartition(":")[2], 16))
            return
        address = _address(far.rpartition(":")[0])
        if not _LOCAL.match(address):
            self.foreign.add(f"{kind} {address}:{int(far.rpartition(':')[2], 16)}")


def _address(text: str) -> str:
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    data = b"".join(words)
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


# -- the data -----------------------------------------------------------------------------------------------------------


def make_data(folder: Path, images: Path, some: int) -> Path:
    """`some` pictures of each class of train/ and test/ of `images`; one in five is a DICOM file with planted values."""
    for part in ("train", "test"):
        for group in sorted(path for path in (images / part).iterdir() if path.is_dir()):
            target = folder / part / group.name
            target.mkdir(parents=True)
            for number, path in enumerate(sorted(group.iterdir())[:some]):
                if number % 5 == 4:
                    _write_dicom(target / f"{path.stem}.dcm", path, number)
                else:
                    shutil.copy(path, target / path.name)
    return folder


def _write_dicom(target: Path, picture: Path, number: int) -> None:
    with Pillow.open(picture) as opened:
        pixels = np.asarray(opened.convert("L").resize((256, 256)))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    for name, value in PLANTED.items():
        setattr(dataset, name, value)
    dataset.PatientID = f"{PLANTED['PatientID']}-{target.parent.name[:1]}{number}"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(target, enforce_file_format=True)


# -- runs ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """What a run gave: bytes on its connections, packets that were lost, where else it went, places found by kind."""

    bytes: int
    dropped: int
    foreign: frozenset[str]
    needles: int
    found: dict[str, int]


def record(command: list[str], folder: Path, data: Path, planted: bool) -> Recorded:
    """Run a command with the hook before each of its processes, and search what went over the interface."""
    hook, kept = folder / "hook", folder / "kept"
    for made in (hook, kept):
        made.mkdir(parents=True)
    shutil.copy(faults_traffic_hook.__file__, hook / "sitecustomize.py")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{hook}{os.pathsep}{_REPOSITORY}",
        "PRIMUM_KEPT": str(kept),
        "PRIMUM_PLANTED": str(int(planted)),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / "output.txt").open("wb") as output, Recorder() as recorder:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        with Watch(process.pid) as watch:
            try:
                code = process.wait(900)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if code != 0:
        raise MachineError(f"The recorded run ended with {code}.", (folder / "output.txt").read_text()[-2000:])
    haystack = recorder.bytes_of(watch.ports)
    needles = needles_of(data, kept, ("NORMAL", "PNEUMONIA"))
    return Recorded(len(haystack), recorder.dropped, frozenset(watch.foreign), len(needles), needles.found_in(haystack))


def traffic(images: Path, some: int, say: Callable[[str], None]) -> dict[str, object]:
    """The figures of the whole demo, and of the patched build."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = make_data(folder / "data", images, some)
        out = folder / "demo"
        command = [sys.executable, "-m", "primum", "demo", "--data", str(data), "--out", str(out)]
        whole = record(command, folder / "whole", data, planted=False)
        say(_in_words("primum demo", whole))
        command = [sys.executable, "-m", "bench.faults_traffic", str(data), str(folder / "planted-demo")]
        patched = record(command, folder / "patched", data, planted=True)
        say(_in_words("without TLS and masks", patched))
    return {
        "traffic_bytes": whole.bytes,
        "traffic_packets_lost": whole.dropped,
        "traffic_found": sum(whole.found.values()),
        "planted_found": {"update vector", "class name"} <= set(patched.found),
        "foreign_connections": len(whole.foreign | patched.foreign),
    }


def _in_words(what: str, recorded: Recorded) -> str:
    found = ", ".join(f"{kind} {count}" for kind, count in sorted(recorded.found.items())) or "nothing"
    foreign = ", ".join(sorted(recorded.foreign)) or "none"
    return (
        f"{what}: {recorded.bytes:,} bytes, {recorded.dropped} packets lost, {recorded.needles:,} strings searched for; "
        f"found: {found}; foreign connections: {foreign}"
    )


def _train_only(data: Path, out: Path) -> None:
    """The federation's part of the demo: what the patched build runs."""
    from primum import demo
    from primum.imaging import CHEST_XRAY_PATIENT

    def progress(what: str, share: float) -> None:
        print(f"{share:.0%} {what}", flush=True)

    (out / "logs").mkdir(parents=True)
    with demo._processes(out / "logs") as running:
        study = demo._federation(out, running, data, CHEST_XRAY_PATIENT, progress)
        short = study.model_copy(update={"training": study.training.model_copy(update={"rounds": 3})})
        demo._train(out, short, progress)


def chest_images(folder: Path) -> Path:
    """Real ones where there are some (PRIMUM_DATA), else drawn."""
    from primum.imaging.phantom import draw

    found = Path(os.environ.get("PRIMUM_DATA") or _REPOSITORY.parent / "shared" / "data") / "chest"
    return found if found.is_dir() else draw(folder / "drawn")


if __name__ == "__main__":
    _train_only(Path(sys.argv[1]), Path(sys.argv[2]))
