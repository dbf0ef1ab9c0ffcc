"""The protocol as a whole: right for every weight and image, uniform on every wire, once per number."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from primum.errors import PeerError, Refused
from primum.mpc import party as party_module
from primum.mpc.linear import encode_features, encode_weight
from primum.mpc.program import logit_error
from primum.mpc.share import Ratchet, from_bytes, to_bytes
from primum.ring import mask

FLOAT_SLACK = 1e-9
finite = st.floats(-1, 1, allow_nan=False, width=32)


@given(
    st.integers(1, 60).flatmap(
        lambda d: st.tuples(
            arrays(np.float64, st.tuples(st.integers(1, 4), st.just(d)), elements=finite),
            arrays(np.float64, st.tuples(st.integers(1, 3), st.just(d)), elements=finite),
        )
    ),
    st.floats(0, 500),
    st.booleans(),
    st.integers(1, 1000),
)
def test_logits_are_those_of_the_plain_model_for_every_weight_and_image(theatre_of, both, scale, coarse, number):
    weight, features = both
    weight = weight * scale
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1)
    stage = theatre_of(weight, coarse=coarse)
    error = np.abs(stage.infer(number, features) - features @ weight.T).max()
    assert error <= logit_error(stage.program) + FLOAT_SLACK < 0.01


@pytest.fixture(scope="module")
def theatre_of():
    from tests.mpc.conftest import Theatre

    return Theatre.of


@pytest.mark.parametrize("norm", [0.9, 15.9, 250.0, 4000.0])
@pytest.mark.parametrize("coarse", [False, True])
def test_worst_case_weights_at_the_largest_dimension_stay_within_a_hundredth(theatre, norm, coarse):
    """All weights halfway between two representable values, all features too, every rounding in the same direction."""
    dimension = 45_000
    program = theatre.of(np.full((1, dimension), norm / np.sqrt(dimension))).program
    f_x, f_w = program.wire("features").fraction, program.layer.fraction
    level_w = np.floor(norm / np.sqrt(dimension) * 2**f_w) * 2.0**-f_w
    level_x = np.floor((1 / np.sqrt(dimension)) * 2**f_x) * 2.0**-f_x
    weight = np.full((1, dimension), max(level_w - 0.499 * 2.0**-f_w, 0))
    features = np.full((1, dimension), level_x - 0.499 * 2.0**-f_x)
    features[0] /= max(1, np.linalg.norm(features[0]))
    stage = theatre.of(weight, coarse=coarse)
    error = abs(float(stage.infer(1, features)[0, 0]) - float(features[0] @ weight[0]))
    assert error <= logit_error(stage.program) + FLOAT_SLACK < 0.01


def test_the_extremes_of_the_range_do_not_wrap(theatre, rows):
    direction = rows(1, 2000)
    stage = theatre.of(direction * 256.0)
    assert stage.infer(1, direction)[0, 0] == pytest.approx(256, abs=0.002)
    assert stage.infer(2, -direction)[0, 0] == pytest.approx(-256, abs=0.002)


def test_the_same_class_wherever_the_margin_exceeds_two_hundredths(theatre, rows):
    weight, features = rows(5, 3000) * 3, rows(300, 3000)
    plain = features @ weight.T
    ordered = np.sort(plain, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 0.02
    private = np.concatenate([theatre.of(weight, coarse=True).infer(1, part) for part in np.split(features, 5)])
    assert clear.sum() > 100
    assert (private.argmax(1) == plain.argmax(1))[clear].all()


def chi_square(data, shift, bits=8):
    counts = np.bincount(((data >> np.uint64(shift)) & np.uint64(2**bits - 1)).ravel().astype(int), minlength=2**bits)
    expected = data.size / 2**bits
    return (((counts - expected) ** 2 / expected).sum() - (2**bits - 1)) / np.sqrt(2 * (2**bits - 1))


def test_every_wire_is_uniform_whatever_the_image(theatre, rows):
    """The same image and the same weights 150 times, then a blank image: every byte of every wire is uniform, and no
    wire of one run agrees with that of another."""
    weight, image = rows(2, 400) * 8, rows(1, 400)
    stage = theatre.of(weight)
    for features in (image, np.zeros((1, 400))):
        seen: dict[str, list[bytes]] = {}
        for _ in range(150):
            stage.infer(stage.at_dealer["A"].next, features)
            for name, data in stage.wire.items():
                seen.setdefault(name, []).append(data)
        for name, datas in seen.items():
            assert len(set(datas)) == len(datas), name
            z = chi_square(np.frombuffer(b"".join(datas), np.uint8).astype(np.uint64), 0)
            assert abs(z) < 6, (name, z)


def test_openings_of_two_images_do_not_show_their_difference(theatre, rows):
    one, two = rows(1, 300), rows(1, 300)
    stage = theatre.of(rows(1, 300))
    opened = []
    for number, features in ((1, one), (2, two)):
        stage.infer(number, features)
        parts = [from_bytes(stage.wire[f"opening {role}"], (300,), stage.program.bits, role) for role in "AB"]
        opened.append((parts[0] + parts[1]) & mask(stage.program.bits))
    difference = (opened[0] - opened[1]) & mask(stage.program.bits)
    plain = encode_features(stage.program, one) - encode_features(stage.program, two)
    assert not (difference == (plain[0] & mask(stage.program.bits))).any()


def planted(stage, features):
    """Which secrets are found on the wires or in W^ of the last run, as ring elements or differences of shares."""
    bits = stage.program.bits
    x = to_bytes(encode_features(stage.program, features), bits)
    found = [name for name, data in stage.wire.items() if x[:24] in data]
    both = [from_bytes(stage.wire[f"opening {role}"], features.shape, bits, role) for role in "AB"]
    if to_bytes((both[0] + both[1]) & mask(bits), bits) == x:
        found.append("openings together")
    return found


def test_no_message_carries_the_features_and_the_search_finds_them_without_masks(theatre, rows, monkeypatch):
    """The opened value is the features exactly when the masks are switched off: the search can fail."""
    weight, features = rows(2, 200), rows(1, 200)
    stage = theatre.of(weight)
    stage.infer(1, features)
    assert planted(stage, features) == []
    assert to_bytes(encode_weight(stage.program, weight), stage.program.bits)[:24] not in stage.masked

    monkeypatch.setattr(
        party_module, "draw_rows", lambda keys, labels, width, bits: np.zeros((len(keys), width), np.uint64)
    )
    stage.infer(2, features)
    assert planted(stage, features) == ["openings together"]


def test_answers_are_blinded_by_what_the_servers_have_in_common(theatre, rows):
    """The same run under two k_AB: each server's share changes, their sum does not."""
    stage = theatre.of(rows(3, 50))
    program, ring = stage.program, stage.program.answer_bits
    shares = {"A": encode_features(program, rows(1, 50)), "B": np.zeros((1, 50), np.uint64)}
    answers = []
    for between in (b"x" * 32, b"y" * 32):
        runs = {r: stage.parties[r].evaluate(1, 1, Ratchet(b"k" * 32, 1), Ratchet(between, 1)) for r in ("A", "B")}
        openings = {r: runs[r].open(shares[r]) for r in ("A", "B")}
        correction = stage.dealer.deal(1, 1, {r: Ratchet(b"k" * 32, 1) for r in ("A", "B")})
        received = (runs["A"].receive(openings["B"]), runs["B"].receive(openings["A"], correction))
        answers.append([from_bytes(data, (1, 3), ring, "a server") for data in received])
    (a1, b1), (a2, b2) = answers
    assert not (a1 == a2).any() and not (b1 == b2).any()
    assert np.array_equal((a1 + b1) & mask(ring), (a2 + b2) & mask(ring))


def test_two_images_under_one_number_are_refused_by_every_role(theatre, rows):
    stage = theatre.of(rows(1, 50))
    stage.infer(7, rows(2, 50))  # numbers 7 and 8
    for role, party in stage.parties.items():
        for number in (7, 8):
            with pytest.raises(Refused, match="was used before"):
                party.evaluate(number, 1, stage.with_dealer[role], stage.between[role])
    with pytest.raises(Refused, match="was used before"):
        stage.dealer.deal(8, 1, stage.at_dealer)


def test_an_evaluation_serves_one_request(theatre, rows):
    stage = theatre.of(rows(1, 50))
    run = stage.parties["A"].evaluate(1, 1, stage.with_dealer["A"], stage.between["A"])
    share = np.zeros((1, 50), np.uint64)
    with pytest.raises(PeerError):
        run.receive(to_bytes(share, stage.program.bits))
    opening = run.open(share)
    with pytest.raises(PeerError):
        run.open(share)
    run.receive(opening)
    with pytest.raises(PeerError):
        run.receive(opening)


@pytest.mark.parametrize("opening", [b"", b"\0" * 249, b"\0" * 10_000])
def test_an_opening_of_a_wrong_length_names_the_server(theatre, rows, opening):
    stage = theatre.of(rows(1, 50))
    run = stage.parties["A"].evaluate(1, 1, stage.with_dealer["A"], stage.between["A"])
    run.open(np.zeros((1, 50), np.uint64))
    with pytest.raises(PeerError, match="server B"):
        run.receive(opening)


def test_a_correction_of_a_wrong_length_names_the_dealer(theatre, rows):
    stage = theatre.of(rows(1, 50))
    run = stage.parties["B"].evaluate(1, 1, stage.with_dealer["B"], stage.between["B"])
    opening = run.open(np.zeros((1, 50), np.uint64))
    with pytest.raises(PeerError, match="the dealer"):
        run.receive(opening, b"\0")


def test_masked_weights_of_a_wrong_length_name_the_model_owner(theatre, rows):
    stage = theatre.of(rows(1, 50))
    with pytest.raises(PeerError, match="the model owner"):
        party_module.Party.make("A", stage.program, b"m" * 32, stage.masked[:-1], os.urandom(32))


def test_another_model_digest_gives_noise_not_logits(theatre, rows):
    """Streams are bound to the model: a dealer of another version cannot serve this one by accident."""
    from primum.mpc.dealer import Dealer

    weight, features = rows(1, 64), rows(1, 64)
    stage = theatre.of(weight)
    stage.dealer = Dealer.make(stage.program, b"other" + bytes(27), {"A": os.urandom(32), "B": os.urandom(32)})
    assert abs(stage.infer(1, features)[0, 0] - (features @ weight.T)[0, 0]) > 0.01


def test_nothing_secret_is_printed(theatre, rows):
    stage = theatre.of(rows(1, 50))
    run = stage.parties["A"].evaluate(1, 1, stage.with_dealer["A"], stage.between["A"])
    for thing in (stage.parties["A"], stage.dealer, run, Ratchet(b"k" * 32, 1)):
        assert "array" not in repr(thing) and "\\x" not in repr(thing).replace("b'" + "m" * 32 + "'", "")
