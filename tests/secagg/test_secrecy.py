"""What a coalition below the threshold sees together with the server: played as far as a test can."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats
from tests.secagg.playing import MODEL, Federation

from primum import wire
from primum.kernels import packing
from primum.rng import Stream
from primum.secagg import Setup, masks, shamir
from primum.secagg.messages import Deal

Build = Callable[..., Federation]
SMALLEST_P = 1e-6
LENGTH = 60_000


def uniform(values: np.ndarray, bits: int) -> bool:
    """Chi-square on every byte of the values, and on their neighbours' differences."""
    found = True
    for shift in range(0, bits - 7, 8):
        counts = np.bincount((values >> np.uint32(shift)) & np.uint32(255), minlength=256)
        found &= bool(stats.chisquare(counts).pvalue > SMALLEST_P)
    steps = np.bincount((values[1:] - values[:-1]) >> np.uint32(bits - 8) & np.uint32(255), minlength=256)
    return found and bool(stats.chisquare(steps).pvalue > SMALLEST_P)


def masked_by(built: Federation, victim: int, vector: np.ndarray) -> np.ndarray:
    starts = built.server.start(MODEL, built.shape)
    for place, message in starts.items():
        built.nodes[place].start(message)
    packed = built.nodes[victim].mask(vector, built.shape.bits).vector
    return packing.unpack(packed, built.shape.length, built.shape.bits)


@pytest.mark.parametrize("inputs", ["zeros", "ramp", "largest"])
def test_what_the_server_and_a_colluder_see_of_a_victim_is_uniform(federation: Build, inputs: str) -> None:
    """The coalition takes off what it knows, its own pair mask; what is left looks the same for every input."""
    built = federation(4, may_vanish=1, length=LENGTH, bits=24)
    built.begin()
    vector = {
        "zeros": np.zeros(LENGTH, np.int32),
        "ramp": np.arange(LENGTH, dtype=np.int32),
        "largest": np.full(LENGTH, 2**23 - 1, np.int32),
    }[inputs]
    seen = masked_by(built, 1, vector)
    assert uniform(seen, 24)
    colluder = built.nodes[4]._round
    assert colluder is not None
    key = masks.pair_mask_key(colluder.secrets.round_keys[1], colluder.group, MODEL)
    left = (seen - Stream(key).uint32(LENGTH)) & np.uint32(2**24 - 1)  # member 1 added it
    assert uniform(left, 24)
    assert not uniform(vector.view(np.uint32) & np.uint32(2**24 - 1), 24)  # the test has eyes


def test_shares_below_the_threshold_fit_every_secret(federation: Build) -> None:
    """Given t - 1 shares, each value of a secret byte is possible, by exactly one last share."""
    setup = Setup(5, 1, 1)
    secret = bytes(range(64))
    shares = shamir.share(secret, range(1, 6), setup.threshold, Stream.from_os())
    known = {x: shares[x] for x in range(1, setup.threshold)}
    first_bytes = set()
    for guess in range(256):
        last = bytes([guess]) + shares[setup.threshold][1:]
        first_bytes.add(shamir.reconstruct({**known, setup.threshold: last})[0])
    assert first_bytes == set(range(256))


def test_every_mask_is_used_once_and_pair_masks_by_exactly_two(
    federation: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over rounds, sessions and models: a self mask's key comes once, a pair's once added and once subtracted."""
    added: Counter[bytes] = Counter()
    subtracted: Counter[bytes] = Counter()
    apply = masks.apply

    def watching(vector: np.ndarray, bits: int, plus: Sequence[bytes], minus: Sequence[bytes]) -> bytes:
        added.update(plus)
        subtracted.update(minus)
        return apply(vector, bits, plus, minus)

    monkeypatch.setattr(masks, "apply", watching)
    built = federation(4, may_vanish=1)
    vectors = {place: np.arange(8) for place in built.nodes}
    for session in (1, 2):
        built.begin(session, built.server.round + 1)
        for _ in range(3):
            built.round(vectors)
    assert set(added.values()) == set(subtracted.values()) == {1}
    assert len(added.keys() & subtracted.keys()) == 6 * 6  # every pair, every round
    assert len(added.keys() - subtracted.keys()) == 4 * 6  # every node's own, every round
    assert not subtracted.keys() - added.keys()


def test_what_a_node_holds_in_a_later_round_opens_nothing_earlier(federation: Build) -> None:
    """A node's memory is taken in round 4: nothing in it derives the keys of round 1."""
    built = federation(3)
    built.begin()
    node = built.nodes[1]
    session, current = node._session, node._round
    assert session is not None
    assert current is not None
    early = {*session.secrets.values(), *current.secrets.round_keys.values(), *current.secrets.share_keys.values()}
    early.add(current.secrets.self_key)
    for _ in range(3):
        built.round({place: np.arange(8) for place in built.nodes})
    assert node._round is not None
    late = node._round.secrets
    held = {*session.secrets.values(), *late.round_keys.values(), *late.share_keys.values(), late.self_key}
    assert not early & held
    assert session._keys is None  # with these and the recorded ciphertexts the secrets could be made again
    assert not hasattr(node, "_stream")  # nor a stream whose key gives the shares of round 1
    assert session._nonce == b""
    for secret in session.secrets.values():  # going on only ever goes forwards
        ahead = secret
        for _ in range(10):
            ahead = masks.ratchet(ahead)
            assert ahead not in early


def test_another_model_or_other_participants_give_another_mask() -> None:
    key = bytes(32)
    base = masks.pair_mask_key(key, masks.set_digest((1, 2, 3)), MODEL)
    assert base != masks.pair_mask_key(key, masks.set_digest((1, 2, 4)), MODEL)
    assert base != masks.pair_mask_key(key, masks.set_digest((1, 2, 3)), b"x" * 32)
    assert base not in (masks.self_mask_key(key), masks.commitment(key), masks.round_key(key, 1), masks.ratchet(key))


def test_one_more_secret_per_pair_of_sites_changes_every_mask(federation: Build) -> None:
    """Two sites with a key from elsewhere agree only if both have the same one."""
    built = federation(3)
    first, second = built.identities[0].public, built.identities[1].public
    built.nodes[1]._member.shared_secrets[second] = b"from a courier"  # type: ignore[index]
    built.begin()
    starts = {}
    with pytest.raises(Exception, match="Members 1 and 2 do not hold the same round key"):
        starts = built.server.start(MODEL, built.shape)
    assert not starts
    built.nodes[2]._member.shared_secrets[first] = b"from a courier"  # type: ignore[index]
    built.begin(2, 2)
    vectors = {place: np.arange(8) for place in built.nodes}
    assert built.round(vectors).total.tolist() == (3 * np.arange(8)).tolist()


def test_a_deal_tells_nothing_but_its_size(federation: Build) -> None:
    """Two deals of one node differ in everything but names and lengths."""
    built = federation(3)
    seen = []
    for session in (1, 2):
        built.begin(session, session)
        deal: Deal = built.server._deals[1]
        seen.append(deal)
    assert seen[0].self_key_hash != seen[1].self_key_hash
    assert not {data for _, data in seen[0].shares} & {data for _, data in seen[1].shares}
    assert len(wire.encode(seen[0])) == len(wire.encode(seen[1]))
