"""The data owner's resident process: enrols, shows what it offers, answers studies. Opens no port.

State folder (0700): identity.pem (Ed25519), transport.pem (P-384, for Flower), pseudonym.key, policy.toml (the
hospital's own rules, read anew for each study), node.toml (where patients are named), ledger.sqlite, memory.sqlite,
journal.jsonl, images (prepared images of patients in clear, and which file each came from: imaging/cache.py).
"""

import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Final, get_args

import torch
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from primum import __version__, wire
from primum.accelerator import Accelerator
from primum.disk import write
from primum.dp.ledger import Ledger
from primum.errors import DataError, InputError, MachineError, OtherClasses, PeerError, PrimumError, Unavailable
from primum.federation.approval import Approvals
from primum.federation.courier import Courier
from primum.federation.enrolment import PURPOSE, EnrolRequest, JoinFile
from primum.federation.fleet import Fleet, Mail, connect
from primum.federation.memory import Memory
from primum.federation.messages import EndOrder, Failure, Order, Reply, Tagged
from primum.federation.node_settings import NodeSettings
from primum.federation.participant import Cohorts, Hospital, Participant
from primum.federation.pins import Pins
from primum.federation.policy import Policy
from primum.federation.scientist import Desk as CoordinatorDesk
from primum.federation.scientist import Submitted, post
from primum.federation.terminal import TerminalDesk
from primum.federation.way import Way
from primum.imaging import (
    Dataset,
    Intake,
    PatientSource,
    Preparation,
    holds_masks,
    look,
    reader_of,
    require_task,
    split_patients,
)
from primum.imaging.reading import usable_cores
from primum.journal import Journal
from primum.keys.certificate import ending
from primum.keys.identity import Identity, fingerprint
from primum.secagg.messages import Signed, open_signed, sign
from primum.state_folder import make_private
from primum.study import Labels
from primum.tasks.features import Features, features_of, some
from primum.tasks.learner import Cohort
from primum.tasks.plan import Plan

_PAUSE: Final = 0.01
_IDLE_POLL: Final = 0.25
_HELD: Final = 0.2
_RECONNECT: Final = 2.0
_ANEW: Final = 24 * 3600.0  # seconds after which a connection is made anew: certificates are learned then
_LIMIT: Final = 1 << 30
_REPORT: Final = "The hospital's own screen has the whole text; please report it to Primum."


@dataclass(frozen=True)
class NodeState:
    """A node's state folder."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "NodeState":
        """The folder, made (mode 0700) if it is not there."""
        make_private(folder)
        return cls(folder.resolve())

    @property
    def identity(self) -> Identity:
        """The hospital's Ed25519 identity; its public half also stands in identity.pub for others to compare."""
        identity = Identity.load_or_make(self.folder / "identity.pem")
        (self.folder / "identity.pub").write_text(identity.public.hex() + "\n")
        return identity

    @property
    def pseudonym_key(self) -> bytes:
        """32 bytes that never leave this folder; lost, the split into training and evaluation is lost too."""
        path = self.folder / "pseudonym.key"
        if not path.exists():
            write(path, os.urandom(32), private=True)
        return path.read_bytes()

    def transport(self) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
        """Flower's node key (P-384) and its public half in PEM form."""
        path = self.folder / "transport.pem"
        if not path.exists():
            made = ec.generate_private_key(ec.SECP384R1())
            pem = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write(path, pem, private=True)
        try:
            key: object = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{path} is not a P-384 key.", "Delete it; the node enrols again with a new join file.")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return key, public


@dataclass
class Images:
    """A hospital's folder, read once for each preparation that a study asks for.

    `cache`: a private folder for what was read, so that the next start and the next study of the same preparation
    decode nothing; without it nothing is kept (imaging/cache.py).
    """

    folder: Path
    settings: NodeSettings
    key: bytes = field(repr=False)
    progress: Callable[[int, int], None] | None = None
    cache: Path | None = None
    _read: dict[tuple[Preparation, tuple[str, ...] | None, Labels | None], Intake] = field(
        default_factory=dict, repr=False
    )

    @property
    def masked(self) -> bool:
        """Whether the folder holds images with masks."""
        return holds_masks(self.folder)

    def intake(
        self, preparation: Preparation, classes: tuple[str, ...] | None = None, labels: Labels | None = None
    ) -> Intake:
        """What the folder holds at that preparation; `classes` and `labels` of a study, else as node.toml and it say."""
        found = self._read.get((preparation, None, None))
        if found is not None and found.dataset.classes == classes and found.labels == labels:
            return found
        if (preparation, classes, labels) not in self._read:
            read = reader_of(masked=self.masked, labels=labels or self.settings.labels)
            self._read[preparation, classes, labels] = read(
                self.folder,
                classes,
                preparation=preparation,
                patients=PatientSource(self.settings.patient, self.settings.one_image_per_patient),
                pseudonym_key=self.key,
                progress=self.progress,
                cache=self.cache,
                cores=usable_cores(),
            )
        return self._read[preparation, classes, labels]

    def look(self) -> Intake:
        """What the folder offers before a study asks: in grey, or in colour where it holds that (imaging/look.py)."""
        return look(self.intake)

    def cohorts(self, plan: Plan, share: float) -> Cohorts:
        """Features of the study's training and evaluation patients."""
        about = plan.study.study
        require_task(self.folder, about.task)
        data = self.intake(Preparation(**plan.study.images.model_dump()), about.classes, about.labels).dataset
        with torch.no_grad():
            features = features_of(plan.front_end, data.images)
        evaluation = torch.from_numpy(split_patients(data.patients, share, self.key))
        return Cohorts(_cohort(data, features, ~evaluation), _cohort(data, features, evaluation))


def _cohort(data: Dataset, features: Features, chosen: torch.Tensor) -> Cohort:
    kept = chosen.tolist()
    return Cohort(
        some(features, chosen),
        data.labels[chosen],
        tuple(compress(data.patients, kept)),
        tuple(compress(data.grids, kept)),
        tuple(compress(data.files, kept)),
        tuple(compress(data.spacing, kept)),
    )


def enrol(state: NodeState, join: JoinFile, way: Way | None = None) -> None:
    """Show the coordinator this node's keys with the token; a second time with the same identity does no harm."""
    identity, (_, transport) = state.identity, state.transport()
    try:
        token = bytes.fromhex(join.token)
    except ValueError:
        raise InputError("The join file's token is not hexadecimal.", "Ask the coordinator for it again.") from None
    unsigned = EnrolRequest(token, identity.public, transport, __version__, b"")
    signature = identity.sign(PURPOSE, unsigned.signed_part())
    request = EnrolRequest(token, identity.public, transport, __version__, signature)
    desk = CoordinatorDesk(address=join.address, coordinator=join.coordinator, certificate=join.certificate)
    envelope = wire.decode(post(desk, "/primum/enrol", wire.encode(request), way), Signed, "the coordinator")
    open_signed(envelope, Submitted, bytes.fromhex(join.coordinator), "the coordinator")


class ResidentNode:
    """The process: enrolled, connected, answering. `run` returns when `stop` is set."""

    def __init__(self, state: NodeState, join: JoinFile, data: Path, show: Callable[[str], None]) -> None:
        self._state, self._join, self._show = state, join, show
        self._identity = state.identity
        self._coordinator = bytes.fromhex(join.coordinator)
        settings = NodeSettings.read(state.folder / "node.toml")
        self.images = Images(data, settings, state.pseudonym_key, cache=state.folder / "images")
        self._journal = Journal(state.folder / "journal.jsonl", self._identity)
        if settings.one_image_per_patient:
            self._journal.write("setting", one_image_per_patient=True)
        self._hospital = Hospital(
            self._identity,
            self._coordinator,
            Memory(state.folder / "memory.sqlite"),
            Approvals(state.folder / "memory.sqlite"),
            self._journal,
            lambda: Policy.read(state.folder / "policy.toml"),
            lambda policy: Ledger(state.folder / "ledger.sqlite", policy.cap),
            self.images.cohorts,
            TerminalDesk(show),
            show,
            Accelerator.named(settings.device),
        )
        self._participants: dict[bytes, Participant] = {}
        self._last: dict[bytes, int] = {}
        self.stop = threading.Event()
        self._way = Way(join.address, join.certificate, settings.proxy, settings.authority)
        self._warned = ""
        self._pins = Pins(state.folder / "certificates.json", self._way, self._coordinator)
        self._mail = Mail(Courier(self._identity, self.stop), self.stop, show)

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Enrol, then answer until stopped; goes on by itself when the coordinator is away."""
        said = self._enrol()
        if self.stop.is_set():
            return
        self._journal.write("enrolled", coordinator=self._join.coordinator, address=self._join.address)
        self._show(f"Enrolled as {self._join.hospital}. This hospital's identity: {self._identity.public.hex()}")
        self._show(f"Compare by telephone: {fingerprint(self._identity.public)}")
        self._show(f"The coordinator's: {fingerprint(self._coordinator)}")
        ready()
        key, _ = self._state.transport()
        while not self.stop.is_set():
            try:
                way = self._pins.trusted()
                self._warn_of_end(way)
                with connect(way, (key, key.public_key()), self._mail) as fleet:
                    said = self._say_once(said, "Connected; waiting for studies.")
                    self._answer_all(fleet)
            except (Unavailable, PeerError) as error:
                said = self._say_once(said, f"{error.message} Trying again every {_RECONNECT:g} s.")
                self.stop.wait(_RECONNECT)

    def _warn_of_end(self, way: Way) -> None:
        words = ending(way.certificate, "the coordinator", "Its operator runs `primum coordinator rotate`.")
        if words is not None and words != self._warned:  # the days that are left stand in it: once a day
            self._warned = words
            self._show(words)

    def _enrol(self) -> str:
        said = ""
        while not self.stop.is_set():
            try:
                enrol(self._state, self._join, self._way)
                break
            except Unavailable as error:
                said = self._say_once(said, f"{error.message} Trying again every {_RECONNECT:g} s.")
                self.stop.wait(_RECONNECT)
        return said

    def _say_once(self, said: str, text: str) -> str:
        if text != said:
            self._show(text)
        return text

    def _answer_all(self, fleet: Fleet) -> None:
        began = time.monotonic()
        while not self.stop.is_set() and time.monotonic() - began < _ANEW:
            asked = time.monotonic()
            try:
                letter = fleet.receive()
                if letter is None:  # the front holds the question; whatever answers at once is not asked at once again
                    self.stop.wait(_PAUSE if time.monotonic() - asked > _HELD else _IDLE_POLL)
                    continue
                reply = self.answer(letter.body)
            except PeerError as error:  # not signed by the coordinator: not even a failure is said
                self._show(f"Not answered: {error.message}")
                continue
            fleet.send(letter, reply)

    def answer(self, body: bytes) -> bytes:
        """One order's bytes to its reply's bytes; PeerError if the coordinator did not sign it, or it is an old one."""
        envelope = wire.decode(body, Signed, "the coordinator", _LIMIT)
        tagged = open_signed(envelope, Tagged, self._coordinator, "the coordinator")
        order: Order = wire.decode_one_of(tagged.body, get_args(Order), "the coordinator", _LIMIT)
        if tagged.number <= self._last.get(order.run, 0):
            raise PeerError("The coordinator's order was played before.", "It was not answered.")
        self._last[order.run] = tagged.number
        reply = self._carry_out(order)
        return wire.encode(sign(self._identity, Tagged(tagged.number, wire.encode(reply))))

    def _carry_out(self, order: Order) -> Reply:
        participant = self._participants.setdefault(order.run, Participant(self._hospital, order.run))
        try:
            reply = participant.handle(order)
        except PrimumError as error:
            self._show(f"Refused: {error}")
            self._journal.write("refused", run=order.run.hex(), order=type(order).__name__, reason=error.message)
            if isinstance(error, DataError | MachineError):  # may name files: that stays here
                return _without_names(error)
            return Failure(type(error).__name__, error.message, error.hint)
        except OSError as error:
            self._show(f"This computer: {error}")
            return Failure("MachineError", f"The node's computer failed: {error.strerror}.", "Its log says more.")
        except Exception as error:  # a fault of ours: the node lives on, and only what and where leaves the hospital
            self._show(traceback.format_exc())
            return Failure(
                f"Unexpected.{type(error).__name__}", f"The node's program failed {_place_of(error)}.", _REPORT
            )
        if isinstance(order, EndOrder):
            self._participants.pop(order.run, None)
        return reply


def _without_names(error: DataError | MachineError) -> Failure:
    """What may leave the hospital of an error that may name files: its kind."""
    if isinstance(error, OtherClasses):
        words = "The hospital's folder has other classes, labels or masks than the study."
        return Failure(
            "OtherClasses", words, "Its own log names them: ask the hospital, or change `classes` or `task`."
        )
    kind = "DataError" if isinstance(error, DataError) else "MachineError"
    # that it has more patients than the study says, or none of a class, would itself say something about them
    hint = "Its own log says why: no images of a class, say, privacy.patients too small, or a full disk."
    return Failure(kind, "The hospital's images or computer failed.", hint)


def _place_of(error: Exception) -> str:
    """Where it was raised, in our own modules if it passed one; never what the exception says: it may hold values."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "primum" in Path(frame.filename).parts] or frames
    return f"in {Path(ours[-1].filename).name}, line {ours[-1].lineno}"


def check_folder(data: Path) -> None:
    """MachineError or InputError unless `data` is a folder that can be read."""
    if not data.is_dir():
        raise InputError(f"{data} is not a folder.", "Give --data the folder with one folder per class, or labels.csv.")
    if not os.access(data, os.R_OK | os.X_OK):
        raise MachineError(f"{data} cannot be read by this user.", "Change its permissions.")
