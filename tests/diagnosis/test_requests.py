"""Requests and answers without a network: what is altered, swapped or out of range is refused."""

import msgspec
import numpy as np
import pytest
from tests.diagnosis.conftest import Cluster

from primum.diagnosis.deployment import open_role_file
from primum.diagnosis.files import from_json, to_json
from primum.diagnosis.messages import Answer, InputShare, Request, request_limit
from primum.diagnosis.requests import _seal_pair, make_requests, open_answers, open_request, seal_answer
from primum.diagnosis.roles import load_keys
from primum.errors import InputError, PeerError
from primum.keys.sealing import SealingKey, seal
from primum.mpc.share import to_bytes
from primum.ring import encode, mask
from primum.wire import encode as encode_message

REPLY = SealingKey.generate()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return Cluster.make(tmp_path_factory.mktemp("requests"))


@pytest.fixture(scope="module")
def keys(stage):
    return {role: load_keys(stage.folder / role) for role in ("A", "B")}


def features(stage, count=2):
    rows = np.random.default_rng(1).normal(size=(count, stage.model.front_end.dimension))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32).reshape(count, 1, 1, -1)


def answers(stage, keys, request, logits, first=(1, 1)):
    """Answers of two servers that share `logits` between them."""
    deployment = stage.public.deployment
    program = deployment.program
    value = encode(np.asarray(logits, np.float64).reshape(-1, 1), program.answer_fraction, program.answer_bits)
    half = np.full_like(value, 12345)
    shares = (half, (value - half) & mask(program.answer_bits))
    return tuple(
        seal_answer(
            open_request(one, role, deployment, keys[role].sealing),
            role,
            number,
            to_bytes(share, program.answer_bits).tobytes(),
            deployment,
            keys[role].identity,
        )
        for one, role, share, number in zip(request, ("A", "B"), shares, first, strict=True)
    )


def test_answers_add_up_to_the_logits(stage, keys):
    request = make_requests(features(stage), stage.public.deployment, REPLY.public)
    logits, first = open_answers(
        answers(stage, keys, request, [1.5, -2.25]), request[0], stage.public.deployment, REPLY
    )
    assert logits.ravel().tolist() == [1.5, -2.25] and first == 1


def test_logits_out_of_range_are_refused_at_the_data_owner(stage, keys):
    """A server can push a logit; what no weight of this model can give is not shown."""
    deployment = stage.public.deployment
    bound = 2.0 ** deployment.program.wire("logits").magnitude
    request = make_requests(features(stage), deployment, REPLY.public)
    with pytest.raises(PeerError, match="outside the range"):
        open_answers(answers(stage, keys, request, [0.0, 1.02 * bound]), request[0], deployment, REPLY)


def test_answers_with_two_numbers_are_refused(stage, keys):
    request = make_requests(features(stage), stage.public.deployment, REPLY.public)
    pair = answers(stage, keys, request, [0.0, 0.0], first=(1, 2))
    with pytest.raises(PeerError, match="different request numbers"):
        open_answers(pair, request[0], stage.public.deployment, REPLY)


CHANGES = {
    "request": {"request": bytes(32)},
    "number": {"first": 9},
    "model": {"model": bytes(32)},
    "program": {"program": bytes(32)},
    "server": {"server": "B"},
    "box": {"box": bytes(2000)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_altered_answer_is_refused_naming_the_server(stage, keys, change):
    request = make_requests(features(stage), stage.public.deployment, REPLY.public)
    a, b = answers(stage, keys, request, [0.0, 0.0])
    with pytest.raises(PeerError, match="server A"):
        open_answers((msgspec.structs.replace(a, **change), b), request[0], stage.public.deployment, REPLY)


def test_an_answer_signed_by_somebody_else_is_refused(stage, keys):
    """Who knows the reply key can seal, but not sign for server A."""
    request = make_requests(features(stage), stage.public.deployment, REPLY.public)
    a, b = answers(stage, {"A": keys["A"], "B": keys["B"]}, request, [0.0, 0.0])
    deployment = stage.public.deployment
    opened = open_request(request[0], "A", deployment, keys["A"].sealing)
    forged = seal_answer(opened, "A", 1, bytes(10), deployment, keys["B"].identity)
    with pytest.raises(PeerError, match="signature of server A"):
        open_answers((forged, b), request[0], deployment, REPLY)
    assert a.request == forged.request


def test_a_box_opens_at_its_server_only(stage, keys):
    deployment = stage.public.deployment
    a, b = make_requests(features(stage), deployment, REPLY.public)
    with pytest.raises(PeerError, match="cannot be opened"):
        open_request(a, "A", deployment, keys["B"].sealing)
    with pytest.raises(InputError, match="for server B"):
        open_request(b, "A", deployment, keys["A"].sealing)


REQUEST_CHANGES = {
    "images": {"images": 3},
    "no images": {"images": 0},
    "too many": {"images": 65},
    "id": {"id": bytes(16)},
    "short id": {"id": b"x"},
    "box": {"box": bytes(1300)},
    "boxes": {"boxes": (bytes(32), bytes(32))},
}


@pytest.mark.parametrize("change", REQUEST_CHANGES.values(), ids=REQUEST_CHANGES.keys())
def test_an_altered_request_is_refused(stage, keys, change):
    deployment = stage.public.deployment
    a, _ = make_requests(features(stage), deployment, REPLY.public)
    with pytest.raises(PeerError):
        open_request(msgspec.structs.replace(a, **change), "A", deployment, keys["A"].sealing)


def test_a_request_for_another_deployment_is_refused(stage, keys):
    a, _ = make_requests(features(stage), stage.public.deployment, REPLY.public)
    with pytest.raises(InputError, match="another deployment"):
        open_request(msgspec.structs.replace(a, deployment=bytes(32)), "A", stage.public.deployment, keys["A"].sealing)


@pytest.mark.parametrize("shares", [(b"", b""), (bytes(31), bytes(10)), (bytes(33), bytes(10_000))])
def test_shares_of_a_wrong_length_are_refused_at_the_door(stage, keys, shares):
    deployment = stage.public.deployment
    pair = _seal_pair(deployment, 1, REPLY.public, shares)
    for request, role in zip(pair, ("A", "B"), strict=True):
        with pytest.raises(PeerError, match=r"(?i)the data owner"):
            open_request(request, role, deployment, keys[role].sealing)
    for request in _seal_pair(deployment, 1, b"short", shares)[:1]:
        with pytest.raises(PeerError, match="reply key"):
            open_request(request, "A", deployment, keys["A"].sealing)


def test_a_box_with_garbage_inside_is_refused(stage, keys):
    import hashlib

    deployment = stage.public.deployment
    a, _ = make_requests(features(stage), deployment, REPLY.public)
    box = seal(deployment.a.sealing, b"\x01garbage", a.purpose())
    bad = msgspec.structs.replace(a, box=box, boxes=(hashlib.sha256(box).digest(), a.boxes[1]))
    with pytest.raises(PeerError, match="malformed"):
        open_request(bad, "A", deployment, keys["A"].sealing)


def test_inputs_that_break_the_range_are_refused(stage):
    deployment, good = stage.public.deployment, features(stage)
    for bad in (
        good / np.abs(good).max() * 1.5,
        good[..., :-1],
        np.full_like(good, np.nan),
        good[:0],
        np.repeat(good, 40, axis=0),
    ):
        with pytest.raises(InputError):
            make_requests(bad, deployment, REPLY.public)


def test_sizes_do_not_depend_on_the_image_and_the_largest_fits_the_limit(stage):
    deployment = stage.public.deployment
    sizes = set()
    for scale in (0.0, 1.0):
        a, b = make_requests(features(stage, 64) * np.float32(scale), deployment, REPLY.public)
        sizes.add((len(to_json(a)), len(to_json(b))))
    ((_, largest),) = sizes
    assert largest <= request_limit(deployment.program)


def test_two_requests_for_one_image_have_nothing_in_common(stage, keys):
    deployment = stage.public.deployment
    pairs = [make_requests(features(stage), deployment, REPLY.public) for _ in range(2)]
    assert pairs[0][0].digest() != pairs[1][0].digest()
    shares = [open_request(pair[1], "B", deployment, keys["B"].sealing).share() for pair in pairs]
    assert not (shares[0] == shares[1]).any()


@pytest.mark.parametrize("kind", [Request, Answer])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"kind":"Request"}', b"\xff" * 50, b"[" * 5000, b"null"])
def test_json_that_is_no_message_is_refused(kind, data):
    with pytest.raises(PeerError, match="malformed"):
        from_json(data, kind, "the data owner", 10_000)


def test_json_that_is_too_long_is_not_parsed():
    with pytest.raises(PeerError, match="10,001 bytes"):
        from_json(b" " * 10_001, Request, "the data owner", 10_000)


def test_shares_and_requests_print_nothing(stage, keys):
    a, _ = make_requests(features(stage), stage.public.deployment, REPLY.public)
    opened = open_request(a, "A", stage.public.deployment, keys["A"].sealing)
    assert "array" not in repr(opened) and repr(a) == "Request()"
    assert repr(InputShare(b"k", b"s")) == "InputShare()"
    assert encode_message(InputShare(b"k", b"s"))


def test_role_files_open_for_their_roles(stage, keys):
    content = open_role_file(stage.file("A"), keys["A"], ("A", "B"))
    assert content.role == "A" and len(content.seeds) == 1
