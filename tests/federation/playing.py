"""A federation in one process, without Flower: real hospitals with real images, and an exchange that carries bytes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image as Pillow

from primum import wire
from primum.errors import PeerError
from primum.federation.aggregation import Replies
from primum.federation.enrolment import JoinFile
from primum.federation.messages import EndOrder, Order, Reply, StudyOrder, Tagged
from primum.federation.node import NodeState, ResidentNode
from primum.federation.rounds import Rounds
from primum.federation.runs import Run
from primum.keys.identity import Identity, list_fingerprint
from primum.rng import Stream
from primum.secagg.messages import Signed, open_signed, sign
from primum.study import About, Aggregation, Deadlines, Hospitals, Images, Privacy, Study, Training, sign_study
from primum.study.kinds import Model

CLASSES = ("clear", "shadow")
PATTERN = r"^(p\d+)_"
SIDE = 16


def write_images(folder: Path, first_patient: int, patients: int = 12) -> Path:
    """Pictures of 16 pixels, one a patient; those of the second class have a light spot."""
    for number in range(first_patient, first_patient + patients):
        noise = Stream.public(f"picture {number}").uniform((SIDE, SIDE))
        pixels = 60 + 60 * np.asarray(noise)
        ill = number % 2
        if ill:
            pixels[4:10, 4:10] += 100
        target = folder / CLASSES[ill] / f"p{number}_1.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(pixels.astype(np.uint8)).save(target)
    return folder


def make_study(
    members: Iterable[bytes], *, rounds: int = 3, may_vanish: int = 0, private: bool = True, **changes: Any
) -> Study:
    """A study with noise that is filled in already (more than it needs), over quickly."""
    promise = {"epsilon": 3.0, "delta": 1e-5, "patients": 48, "evaluation_share": 0.25, "noise_multiplier": 2.0}
    privacy = Privacy(**{**promise, "evaluation_noise_multiplier": 1.6, **changes.pop("privacy", {})})
    return Study(
        study=About(
            name=changes.pop("name", "tiny"),
            purpose="A study of the tests.",
            classes=CLASSES,
            expires=date(2099, 12, 31),
        ),
        images=Images(size=SIDE),
        model=Model(scales=1, angles=2),
        training=Training(**{"rounds": rounds, "sampling": 0.5, **changes.pop("training", {})}),
        aggregation=Aggregation(**changes.pop("aggregation", {})),
        privacy=privacy if private else None,
        hospitals=Hospitals(members=tuple(m.hex() for m in members), colluding=1, may_vanish=may_vanish),
        deadlines=Deadlines(**{"consent": 4.0, "stage": 4.0, "reply_grid": 0.0, **changes.pop("deadlines", {})}),
    )


class Killed(BaseException):
    """The coordinator's process dies here: nothing catches it."""


@dataclass
class Hospital:
    """One data owner's computer: a state folder that stays, a process that may die."""

    folder: Path
    coordinator: bytes
    number: int
    said: list[str] = field(default_factory=list)
    process: ResidentNode = field(init=False)

    def __post_init__(self) -> None:
        write_images(self.folder / "images", 100 * self.number)
        state = NodeState.open(self.folder / "state")
        (state.folder / "node.toml").write_text(f"patient = '{PATTERN}'\n")
        self.start()

    @property
    def state(self) -> NodeState:
        return NodeState(self.folder / "state")

    @cached_property
    def identity(self) -> Identity:
        return self.state.identity

    def start(self) -> None:
        """A new process on the same folder."""
        join = JoinFile(
            hospital=f"Hospital {self.number}",
            address="127.0.0.1:1",
            coordinator=self.coordinator.hex(),
            certificate="",
            token="00",
        )
        self.process = ResidentNode(self.state, join, self.folder / "images", self.said.append)

    def allow(self, **rules: Any) -> None:
        """Write policy.toml."""
        lines = [f"{key} = {_toml(value)}" for key, value in {"rdp_order": 8, "colluding_min": 1, **rules}.items()]
        (self.folder / "state" / "policy.toml").write_text("\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    return {True: "true", False: "false"}.get(value, repr(value)) if isinstance(value, bool) else repr(value)


Tamper = Callable[[int, Order, bytes], bytes | None]


@dataclass
class Wires:
    """The exchange: seals each order, hands its bytes to the hospital, opens the answer's bytes; keeps all of them.

    `before(place, order)` runs before an order is carried, `spoil(place, order, answer)` changes an answer or drops it.
    """

    coordinator: Identity
    hospitals: Mapping[int, Hospital]
    before: Callable[[int, Order], bool | None] = lambda place, order: None
    spoil: Tamper = lambda place, order, answer: answer
    number: int = 0
    carried: list[tuple[str, int, Order | Reply]] = field(default_factory=list)
    recorded: list[bytes] = field(default_factory=list)

    def __call__(self, orders: Mapping[int, Order], deadline: float) -> Replies:
        replies: dict[int, Reply] = {}
        sent: dict[int, int] = {}
        received: dict[int, int] = {}
        for place, order in orders.items():
            self.number += 1
            if self.before(place, order) is False:
                continue  # away
            body = wire.encode(sign(self.coordinator, Tagged(self.number, wire.encode(order))))
            sent[place] = len(body)
            self._keep("order", place, order, body)
            try:
                answer = self.spoil(place, order, self.hospitals[place].process.answer(body))
                if answer is None:
                    continue
                self.recorded.append(answer)
                replies[place] = self._open(place, answer)
            except PeerError:
                continue  # as server_app: whoever sends garbage is missing in the replies
            received[place] = len(answer)
            self._keep("reply", place, replies[place], b"")
        return Replies(replies, sent, received)

    def _open(self, place: int, answer: bytes) -> Reply:
        envelope = wire.decode(answer, Signed, f"hospital {place}")
        tagged = open_signed(envelope, Tagged, self.hospitals[place].identity.public, f"hospital {place}")
        if tagged.number != self.number:
            raise PeerError("an old answer")
        reply: Reply = wire.decode_one_of(tagged.body, get_args(Reply), f"hospital {place}")
        return reply

    def _keep(self, way: str, place: int, message: Order | Reply, body: bytes) -> None:
        self.carried.append((way, place, message))
        if body:
            self.recorded.append(body)

    def of(self, kind: type) -> list[tuple[int, Any]]:
        """(place, message) of all messages of that class, in their order."""
        return [(place, message) for _, place, message in self.carried if isinstance(message, kind)]


@dataclass
class World:
    """A coordinator, hospitals by place, and the wires between them."""

    folder: Path
    coordinator: Identity
    scientist: Identity
    hospitals: dict[int, Hospital]
    wires: Wires
    said: list[str] = field(default_factory=list)

    @property
    def members(self) -> list[bytes]:
        return [self.hospitals[place].identity.public for place in sorted(self.hospitals)]

    def allow(self, **rules: Any) -> None:
        members = list_fingerprint(self.members)
        for hospital in self.hospitals.values():
            hospital.allow(members=members, **rules)

    def submit(self, study: Study) -> Run:
        return Run.create(self.folder / "runs", sign_study(study, self.scientist), study.study.name)

    def rounds(self, run: Run) -> Rounds:
        """A coordinator's server program on that run's folder."""
        return Rounds(run, self.coordinator, self.wires, self.said.append)

    def train(self, study: Study) -> Run:
        run = self.submit(study)
        self.rounds(run).run_all()
        return run


def build(folder: Path, count: int, **rules: Any) -> World:
    """`count` hospitals whose places are their numbers; all of them have a policy that lets small studies in."""
    coordinator = Identity.generate()
    made = [Hospital(folder / f"hospital-{number}", coordinator.public, number) for number in range(1, count + 1)]
    made.sort(key=lambda hospital: hospital.identity.public)
    hospitals = dict(enumerate(made, start=1))
    world = World(folder, coordinator, Identity.generate(), hospitals, Wires(coordinator, hospitals))
    world.allow(**rules)
    return world


def once(
    condition: Callable[[int, Order], bool], what: Callable[[], bool | None]
) -> Callable[[int, Order], bool | None]:
    """For `Wires.before`: do `what` the first time that the condition holds."""
    done: list[bool] = []

    def before(place: int, order: Order) -> bool | None:
        if not done and condition(place, order):
            done.append(True)
            return what()
        return None

    return before


def is_setup(order: Order) -> bool:
    """Whether an order is of the consent or the end, not of sessions and rounds."""
    return isinstance(order, StudyOrder | EndOrder)
