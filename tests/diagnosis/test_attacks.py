"""Attacks, and what stops them; where nothing does, the test shows that they work, and the threat model says so."""

import time

import msgspec
import numpy as np
import pytest
from tests.diagnosis.conftest import Cluster, images, used_records
from tests.diagnosis.cutting import CuttingProxy
from tests.diagnosis.test_door import ask, requests_for
from tests.diagnosis.test_requests import REPLY, answers, features
from tests.mpc.theatre import Theatre, as_ring, exchange, program_of

from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.messages import Answer, AnswerShare, SignedAnswer, answer_purpose
from primum.diagnosis.numbers import UsedNumbers
from primum.diagnosis.requests import make_requests, open_answers
from primum.diagnosis.roles import load_keys
from primum.diagnosis.session import accept, hello, welcome
from primum.errors import PeerError, PrimumError, Refused
from primum.keys.agreement import KeyPair
from primum.keys.sealing import seal
from primum.mpc.linear import mask_weights
from primum.mpc.program import Convolution, Cut, Open, Program, Relu, Wire
from primum.mpc.share import ROLES, Ratchet, expand_input, from_bytes, other, split_input, to_bytes
from primum.ring import mask, to_signed
from primum.rng import Stream
from primum.wire import decode, encode

BITS, INPUTS, HIDDEN, OUTPUTS = 40, 4, 6, 3
PUSH = 1 << 12
LONGEST = HIDDEN * BITS // 8
"""Bytes of the opening of h; no other message of `two_layers` has as many."""


def two_layers() -> Program:
    """Linear, ReLU, linear: pixels in 6 bits, weights in 4."""
    wires = (
        Wire("x", (1, 1, INPUTS), BITS, 6, 7),
        Wire("x^", (1, 1, INPUTS), BITS, 6, 7),
        Wire("y", (1, 1, HIDDEN), BITS, 10, 14),
        Wire("T", (1, 1, HIDDEN), 16, 6, 10),
        Wire("h", (1, 1, HIDDEN), BITS, 6, 10),
        Wire("h^", (1, 1, HIDDEN), BITS, 6, 10),
        Wire("z", (1, 1, OUTPUTS), BITS, 10, 20),
    )
    steps = (
        Open("open x", "x", "x^"),
        Convolution("first", "x^", "y", 4, (1, 1)),
        Cut("cut", "y", "T"),
        Relu("relu", "T", "h"),
        Open("open h", "h", "h^"),
        Convolution("last", "h^", "z", 4, (1, 1)),
    )
    return program_of(BITS, wires, steps)


def drawn_weights() -> np.ndarray:
    size = HIDDEN * INPUTS + HIDDEN + OUTPUTS * HIDDEN + OUTPUTS
    return Stream.from_os().uint64(size).view(np.int64) >> np.int64(60)


def drawn_image() -> np.ndarray:
    return Stream.from_os().uint64((1, 1, 1, INPUTS)).view(np.int64) >> np.int64(57)


def opened(stage: Theatre, message: int, size: int) -> np.ndarray:
    """What both servers know after a round: the sum of what they sent."""
    parts = [from_bytes(stage.sent[role][message], (size,), BITS, role).astype(np.uint64) for role in ROLES]
    return (parts[0] + parts[1]) & mask(BITS)


# (a) a number is used once


def test_two_images_under_one_number_show_their_difference_exactly() -> None:
    """What would happen: the same keys, the same number, two images. Their masks cancel; nothing in the mathematics
    stops it, so every role refuses (the next tests)."""
    program, weights = two_layers(), drawn_weights()
    stages, images = [Theatre(program, weights, b"k" * 32) for _ in range(2)], [drawn_image(), drawn_image()]
    for stage, image in zip(stages, images, strict=True):
        stage.infer(image)
    seen = [opened(stage, 0, INPUTS) for stage in stages]
    difference = to_signed((seen[0] - seen[1]) & mask(BITS), BITS)
    assert difference.tolist() == (images[0] - images[1]).ravel().tolist()


def test_under_two_numbers_the_difference_says_nothing() -> None:
    program, image = two_layers(), drawn_image()
    stage = Theatre(program, drawn_weights(), b"k" * 32)
    seen = []
    for _ in range(2):
        stage.infer(image)
        seen.append(opened(stage, 0, INPUTS))
    assert np.abs(to_signed((seen[0] - seen[1]) & mask(BITS), BITS)).min() > 0


def test_a_used_number_is_refused_by_disk_key_and_session(tmp_path) -> None:
    """Stopped three times over: by used.bin, also after a restart, and by keys that only move on."""
    book = UsedNumbers(tmp_path)
    book.record(1, 3, b"a" * 32)
    for again in (book, UsedNumbers(tmp_path)):
        for number in (1, 3):
            with pytest.raises(Refused, match="used before"):
                again.record(number, 1, b"b" * 32)
    ratchet = Ratchet(b"k" * 32, 1)
    ratchet.take(3)
    for number in (1, 2, 3):
        with pytest.raises(Refused, match="used before"):
            ratchet.take(number)


def test_all_three_states_restored_from_a_snapshot_bring_no_mask_back(made) -> None:
    """Not stopped: the same number is used again. Harmless: keys are of the connection, and never on a disk."""
    deployment = made.public.deployment
    keys = []
    for _ in range(2):  # twice from the same marks, as after a snapshot of everything
        fresh = KeyPair.generate()
        said = hello(deployment, "A", 7, fresh)
        answer, theirs = welcome(deployment, said, 7, "server A")
        ours = accept(deployment, "A", answer, 7, fresh, "the dealer")
        keys.append(ours.ratchet.take(8))
        assert keys[-1] == theirs.ratchet.take(8)
    assert keys[0] != keys[1]


# (b) weight masks are of one model


def test_two_models_under_the_same_seeds_do_not_show_how_they_differ() -> None:
    """Masks are bound to the model's digest. Under one digest the difference of W^ is the difference of W: so it is
    computed from card, program and weights, and never chosen."""
    program, seeds = two_layers(), {"A": b"a" * 32, "B": b"b" * 32}
    one, two = (as_ring(drawn_weights()) for _ in range(2))
    true = to_signed((two - one) & mask(BITS), BITS)

    def seen(first: bytes, second: bytes) -> np.ndarray:
        masked = [mask_weights(program, w, digest, seeds) for w, digest in ((one, first), (two, second))]
        return to_signed((masked[1] - masked[0]) & mask(BITS), BITS)

    assert seen(b"m" * 32, b"m" * 32).tolist() == true.tolist()
    assert (seen(b"m" * 32, b"n" * 32) == true).mean() < 0.1


# (c) a hospital that runs A, asks, and does not keep to the protocol


def tampered(stage: Theatre, image: np.ndarray, place: int | None) -> np.ndarray:
    """The outputs if A adds `PUSH` to its message when h is opened, at `place`, and to what it receives."""
    seed, values, first = stage.fresh(32), as_ring(image), stage.number
    shares = {"A": expand_input(seed, values.shape), "B": split_input(values, seed, BITS)}
    stage.dealt = [bytes(message) for message in stage.dealer.deal(first, 1, stage.at_dealer)]
    runs = {role: stage.evaluate(role, first, 1).run(shares[role]) for role in ROLES}
    if place is None:
        _, ends = exchange(runs)
    else:
        ends, due = {}, {role: bytes(next(runs[role])) for role in ROLES}
        while not ends:
            pushed = {role: push(data, place) if len(data) == LONGEST else data for role, data in due.items()}
            due = {}
            for role in ROLES:
                try:
                    due[role] = bytes(runs[role].send(pushed[other(role)]))
                except StopIteration as end:
                    ends[role] = end.value
    total = (ends["A"].astype(np.uint64) + ends["B"].astype(np.uint64)) & mask(BITS)
    return to_signed(total, BITS).ravel()


def push(data: bytes, place: int) -> bytes:
    values = from_bytes(data, (HIDDEN,), BITS, "A").astype(np.uint64)
    values[place] += np.uint64(PUSH)
    return to_bytes(values & mask(BITS), BITS).tobytes()


def test_a_malicious_hospital_that_runs_a_reads_the_last_layer() -> None:
    """NOT stopped (MUSE): one query for each input of the last layer, and one more, give its weights exactly. Servers
    are trusted to keep to the protocol. What bounds it: tokens limit how many images a data owner may ask for; where
    the model must stay secret, the hospital must not run A."""
    weights = drawn_weights()
    stage, image = Theatre(two_layers(), weights), drawn_image()
    plain = tampered(stage, image, None)
    columns = [np.rint((tampered(stage, image, place) - plain) / PUSH) for place in range(HIDDEN)]
    start = HIDDEN * INPUTS + HIDDEN
    true = weights[start : start + OUTPUTS * HIDDEN]
    got = np.stack(columns).astype(np.int64)
    assert true.tolist() in (got.ravel().tolist(), got.T.ravel().tolist())


# (d) a server that changes the diagnosis


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Cluster.make(tmp_path_factory.mktemp("attacks"))


def pushed_answer(made, keys, pair, by: float) -> tuple[Answer, Answer]:
    """The answers, of which B's share is moved by so many logits, and signed by B again."""
    program, (a, b) = made.public.deployment.program, pair
    data = REPLY.open(b.box, answer_purpose("B", b.request), "server B")
    content = decode(decode(data, SignedAnswer, "server B").content, AnswerShare, "server B")
    share = from_bytes(content.share, (1,), program.answer_bits, "server B").astype(np.uint64)
    moved = (share + as_ring([round(by * 2**program.answer_fraction)])) & mask(program.answer_bits)
    changed = encode(msgspec.structs.replace(content, share=to_bytes(moved, program.answer_bits).tobytes()))
    signed = encode(SignedAnswer(changed, keys["B"].identity.sign("answer", changed)))
    return a, msgspec.structs.replace(b, box=seal(REPLY.public, signed, answer_purpose("B", b.request)))


@pytest.fixture(scope="module")
def keys(made):
    return {role: load_keys(made.folder / role) for role in ROLES}


def test_a_malicious_server_flips_a_diagnosis_unseen(made, keys) -> None:
    """NOT stopped: B adds 3 to its share. Servers are trusted to compute; both sign what they answer, so that the
    journal and the signature name who did it once somebody computes again."""
    request = make_requests(features(made, 1), made.public.deployment, REPLY.public)
    honest = answers(made, keys, request, [-1.5])
    flipped, _ = open_answers(pushed_answer(made, keys, honest, 3.0), request[0], made.public.deployment, REPLY)
    assert flipped.ravel().tolist() == [1.5]


def test_a_server_cannot_push_an_answer_out_of_the_models_range_or_sign_for_the_other(made, keys) -> None:
    """Stopped at the data owner."""
    deployment = made.public.deployment
    request = make_requests(features(made, 1), deployment, REPLY.public)
    honest = answers(made, keys, request, [-1.5])
    far = 2.0 ** (deployment.program.wire(deployment.program.output).magnitude + 1)
    with pytest.raises(PeerError, match="outside the range"):
        open_answers(pushed_answer(made, keys, honest, far), request[0], deployment, REPLY)
    with pytest.raises(PeerError, match="signature of server B"):
        forged = pushed_answer(made, {"B": keys["A"]}, honest, 3.0)
        open_answers(forged, request[0], deployment, REPLY)


# (e) selective failure


def test_a_failed_request_is_never_run_again_by_anybody(tmp_path) -> None:
    """Pushing one value and watching whether a retry comes would tell one sign. No retry comes: not from the data
    owner's program, not from a server, and the same request, sent again on purpose, is refused by both. Not stopped: a
    human who asks again, with fresh masks, and by that tells that the first answer did not come."""
    proxies: list[CuttingProxy] = []

    def through(address: str) -> str:
        proxies.append(CuttingProxy(address))
        return proxies[-1].address

    cluster = Cluster.make(tmp_path, via=through)
    link = proxies[4]  # the dealer; A and A's link; B and B's link
    try:
        cluster.start()
        diagnose(images(1), cluster.public)
        time.sleep(0.5)
        before = {role: len(used_records(cluster.folder / role)) for role in ROLES}
        requests, _ = requests_for(cluster, images(2))
        link.cut_after(3000)
        with pytest.raises(PrimumError, match="server"):
            ask(cluster.public.deployment, requests)
        time.sleep(1.0)  # time enough for somebody to try again
        spent = {role: used_records(cluster.folder / role)[count:] for role, count in before.items()}
        for role in ROLES:
            assert [digest for _, _, digest in spent[role]] == [requests[0].digest()], role
        with pytest.raises(Refused, match="sent before"):
            ask(cluster.public.deployment, requests)
        assert {role: used_records(cluster.folder / role)[count:] for role, count in before.items()} == spent
        (answer,) = diagnose(images(1), cluster.public)
        assert answer.number > spent["A"][0][0] + 1
    finally:
        cluster.stop()
        for proxy in proxies:
            proxy.close()
