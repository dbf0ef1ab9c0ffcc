"""What leaves a hospital is searched for what must not leave it; and the search finds it where masks and TLS are off."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import uvicorn
from tests.federation.playing import World, make_study
from tests.integration.cluster import Proxy

from primum import wire
from primum.federation.attendance import Attendance
from primum.federation.control import Control
from primum.federation.enrolment import PURPOSE, EnrolRequest, Member, Register
from primum.federation.front import Desk, make_front
from primum.federation.messages import EVALUATE, TRAIN, RoundOrder, VectorAnswer
from primum.federation.parcels import ParcelStore
from primum.federation.pins import Shown
from primum.federation.scientist import Followed, RunFiles
from primum.journal import Journal
from primum.kernels import packing
from primum.keys.certificate import client_context, load_or_make
from primum.keys.identity import Identity
from primum.secagg import masks
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import look as private_look

Integers = npt.NDArray[np.int64]
WINDOW = 12  # bytes: chance does not hit 96 bits


class Secrets:
    """Everything plain that a test saw inside the hospitals, as bytes in every form that it could travel in."""

    def __init__(self) -> None:
        self.vectors: list[tuple[Integers, int]] = []
        self.gradients: list[npt.NDArray[np.float64]] = []
        self.cohorts: list[Cohort] = []
        self.files: list[bytes] = []

    def vector_needles(self) -> Iterator[bytes]:
        for vector, bits in self.vectors:
            packed = packed_form(vector, bits)
            forms = [packed, *(vector.astype(kind).tobytes() for kind in ("<i8", "<i4", "<f4", "<f8"))]
            for form in forms:
                yield from _windows(form)
        for gradient in self.gradients:
            for kind in ("<f4", "<f8"):
                yield from _windows(gradient.astype(kind).tobytes())

    def data_needles(self) -> Iterator[bytes]:
        for cohort in self.cohorts:
            for kind in ("<f4", "<f8"):
                yield from _windows(cohort.features.numpy().astype(kind).tobytes())
            labels = cohort.labels.numpy()
            if len(labels) >= 8 and len(set(labels)) > 1:
                yield labels.astype("<i8").tobytes()
                yield labels.astype("u1").tobytes()
            for patient in cohort.patients:
                yield patient.encode()
                if len(patient) % 2 == 0 and all(c in "0123456789abcdef" for c in patient):
                    yield bytes.fromhex(patient)
        for file in self.files:
            yield from _windows(file[50:])


def packed_form(vector: Integers, bits: int) -> bytes:
    """The vector as it would travel without masks."""
    return packing.pack(vector.astype(np.int32).view(np.uint32), bits).tobytes()


def _windows(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data) - WINDOW, 4 * WINDOW):
        window = data[start : start + WINDOW]
        if len(set(window)) > 4:  # not a stretch of zeros
            yield window


def found(needles: Iterator[bytes], haystack: bytes) -> list[bytes]:
    return [needle for needle in needles if needle in haystack]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    """Records what the hospitals compute; changes nothing."""
    kept = Secrets()
    step, gradient, look, start = Learner.step, Learner.gradient, private_look, Learner.__init__

    def recorded_step(self: Learner, weights: npt.NDArray[np.float32]) -> Integers:
        vector = step(self, weights)
        kept.vectors.append((vector, self._plan.update.shape.bits))
        return vector

    def recorded_gradient(self: Learner, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        kept.gradients.append(gradient(self, weights))
        return kept.gradients[-1]

    def recorded_start(self: Learner, plan: object, cohort: Cohort, *rest: object) -> None:
        kept.cohorts.append(cohort)
        start(self, plan, cohort, *rest)  # type: ignore[arg-type]

    def recorded_look(plan: object, cohort: Cohort, weights: object, stream: object) -> Integers:
        vector = look(plan, cohort, weights, stream)  # type: ignore[arg-type]
        kept.cohorts.append(cohort)
        kept.vectors.append((vector, plan.evaluation.bits))  # type: ignore[attr-defined]
        return vector

    monkeypatch.setattr(Learner, "step", recorded_step)
    monkeypatch.setattr(Learner, "gradient", recorded_gradient)
    monkeypatch.setattr(Learner, "__init__", recorded_start)
    monkeypatch.setattr("primum.federation.participant.look", recorded_look)
    return kept


def train(world: World, secrets: Secrets) -> bytes:
    world.train(make_study(world.members, rounds=3))
    for hospital in world.hospitals.values():
        secrets.files += [path.read_bytes() for path in (hospital.folder / "images").rglob("*.png")]
    return b"".join(world.wires.recorded)


def test_no_message_of_any_round_first_and_last_too_holds_a_vector_an_image_or_a_label(
    three: World, secrets: Secrets
) -> None:
    haystack = train(three, secrets)
    assert len(secrets.vectors) == 3 * 3 + 3, "three rounds and the look were recorded"
    assert [order.what for _, order in three.wires.of(RoundOrder)].count(EVALUATE) == 3
    assert found(secrets.vector_needles(), haystack) == []
    assert found(secrets.data_needles(), haystack) == []


def test_the_search_finds_every_vector_where_masks_are_switched_off(
    three: World, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks._Masks, "add_to", lambda self, total: None)
    haystack = train(three, secrets)
    for vector, bits in secrets.vectors:
        assert packed_form(vector, bits)[:-1] in haystack
    assert found(secrets.vector_needles(), haystack)
    assert found(secrets.data_needles(), haystack) == [], "images and labels stay also then"


def test_every_vector_that_is_sent_differs_from_every_plain_one(three: World, secrets: Secrets) -> None:
    train(three, secrets)
    plain = {packed_form(vector, bits)[:-1] for vector, bits in secrets.vectors}  # a probe shares the last byte
    sent = [bytes(answer.vector.vector) for _, answer in three.wires.of(VectorAnswer)]
    assert not any(whole.startswith(packed) for whole in sent for packed in plain)


def test_orders_and_answers_hold_no_loss_and_no_class_counts(three: World) -> None:
    three.train(make_study(three.members))
    fields = {name for _, message in three.wires.of(VectorAnswer) for name in message.__struct_fields__}
    assert fields == {"vector", "local_seconds", "journal"}  # the last is a hash
    assert {order.what for _, order in three.wires.of(RoundOrder)} == {TRAIN, EVALUATE}
    assert {answer.local_seconds for _, answer in three.wires.of(VectorAnswer)} == {0.0}


# -- the front, with and without TLS ------------------------------------------------------------------------------------


@contextmanager
def front(folder: Path, tls: bool) -> Iterator[tuple[int, str]]:
    """Our front on a port, with TLS or (a patched build) without."""
    files = load_or_make(folder, "127.0.0.1")

    def submit(request: object) -> str:
        return "run"

    app = make_front(
        Desk(
            Identity.generate(),
            Register(folder),
            lambda: frozenset(),
            lambda member: None,
            submit,
            lambda request: Followed("", "", (), ()),
            lambda request: RunFiles(()),
            Control(folder / "runs", list, Journal(folder / "journal.jsonl", Identity.generate())),
            lambda: Shown(0, ()),
            Attendance(),
            ParcelStore(folder / "parcels"),
        ),
        1,
        client_context(files.pem()),
    )
    keys = {"ssl_certfile": files.certificate, "ssl_keyfile": files.private_key} if tls else {}
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", ws="none", **keys)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        yield server.servers[0].sockets[0].getsockname()[1], files.pem()
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "TLS switched off"])
def test_a_planted_marker_is_seen_at_the_front_only_without_tls(tmp_path: Path, tls: bool) -> None:
    marker, identity = b"a planted marker, 32 bytes long.", Identity.generate()
    unsigned = EnrolRequest(marker, identity.public, b"transport", "0", b"")
    signed = EnrolRequest(marker, identity.public, b"transport", "0", identity.sign(PURPOSE, unsigned.signed_part()))
    with front(tmp_path, tls) as (port, certificate):
        proxy = Proxy(port)
        verify = client_context(certificate) if tls else True
        with httpx.Client(verify=verify, trust_env=False) as http:
            address = f"{'https' if tls else 'http'}://127.0.0.1:{proxy.port}/primum/enrol"
            answer = http.post(address, content=io.BytesIO(wire.encode(signed)))
        assert answer.status_code == 403
        proxy.close()
    assert (marker in proxy.recorded) is not tls


def test_a_member_prints_no_transport_key() -> None:
    assert "secret" not in repr(Member("North", b"i", b"secret"))
