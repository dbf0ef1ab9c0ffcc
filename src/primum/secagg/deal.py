"""A node's secrets for one round: made, sealed to its neighbours, opened by them, and read by the server afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from primum import wire
from primum.errors import PeerError
from primum.rng import Stream
from primum.secagg import masks, shamir
from primum.secagg.messages import Context, Deal

_NONCE: Final = bytes(12)  # every sealing key is used for exactly one message
_PLACE_BYTES: Final = 2
SEAL: Final = 16  # bytes that AES-GCM adds
SEALED_SHARE: Final = 2 * masks.KEY_BYTES + SEAL
LIST_ENTRY: Final = _PLACE_BYTES + masks.KEY_BYTES
_LIST: Final = 0  # in the place of a receiver: the dealer's list, which nobody in particular receives


@dataclass
class RoundSecrets:
    """What a node keeps of its deal until the round ends; erased with it."""

    number: int
    round_keys: dict[int, bytes] = field(repr=False)
    share_keys: dict[int, bytes] = field(repr=False)
    self_key: bytes = field(repr=False)
    own_share: bytes = field(repr=False)


def make(
    context: Context, place: int, secrets: Mapping[int, bytes], positions: Mapping[int, int], threshold: int,
    stream: Stream,
) -> tuple[Deal, RoundSecrets]:  # fmt: skip
    """The deal of the node at `place` for `context.round`, and what it keeps.

    `secrets` are its pair secrets of this round by neighbour, `positions` the x of everybody's share, itself included.
    """
    number = context.round
    round_keys = {other: masks.round_key(secret, number) for other, secret in secrets.items()}
    self_key, list_key = stream.bytes(masks.KEY_BYTES), stream.bytes(masks.KEY_BYTES)
    by_position = shamir.share(self_key + list_key, sorted(positions.values()), threshold, stream)
    sealed: list[tuple[int, bytes]] = []
    for other, secret in sorted(secrets.items()):
        key = masks.share_key(secret, number, place, other)
        sealed.append((other, _seal(key, by_position[positions[other]], context, place, other)))
    deal = Deal(
        context,
        tuple(sealed),
        tuple((other, masks.commitment(key)) for other, key in sorted(round_keys.items())),
        masks.key_hash(self_key, "self"),
        masks.key_hash(list_key, "list"),
        _seal(list_key, _pack_list(round_keys), context, place, _LIST),
    )
    share_keys = {other: masks.share_key(secret, number, other, place) for other, secret in secrets.items()}
    return deal, RoundSecrets(number, round_keys, share_keys, self_key, by_position[positions[place]])


def open_share(key: bytes, sealed: bytes, context: Context, dealer: int, receiver: int) -> tuple[bytes, bytes]:
    """(share of the self-mask key, share of the list key) that `dealer` sealed; PeerError that names it."""
    try:
        share = AESGCM(key).decrypt(_NONCE, sealed, _label(context, dealer, receiver))
    except (InvalidTag, ValueError):
        raise PeerError(
            f"The share of member {dealer} for round {context.round} is missing or altered.",
            "The round was not joined.",
        ) from None
    if len(share) != 2 * masks.KEY_BYTES:
        raise PeerError(f"The share of member {dealer} has a wrong length.", "The round was not joined.")
    return share[: masks.KEY_BYTES], share[masks.KEY_BYTES :]


def open_list(key: bytes, deal: Deal, place: int) -> dict[int, bytes]:
    """The round keys of the member at `place`, who vanished, by neighbour; PeerError where the list cannot be read.

    The length of the sealed list was checked when the deal came.
    """
    try:
        data = AESGCM(key).decrypt(_NONCE, deal.sealed_list, _label(deal.context, place, _LIST))
    except InvalidTag:
        raise PeerError(f"member {place} left a list that cannot be read.", "The round is repeated.") from None
    pieces = (data[start : start + LIST_ENTRY] for start in range(0, len(data), LIST_ENTRY))
    return {int.from_bytes(piece[:_PLACE_BYTES], "big"): piece[_PLACE_BYTES:] for piece in pieces}


def _seal(key: bytes, data: bytes, context: Context, dealer: int, receiver: int) -> bytes:
    return AESGCM(key).encrypt(_NONCE, data, _label(context, dealer, receiver))


def _label(context: Context, dealer: int, receiver: int) -> bytes:
    places = dealer.to_bytes(_PLACE_BYTES, "big") + receiver.to_bytes(_PLACE_BYTES, "big")
    return wire.encode(context) + places


def _pack_list(keys: Mapping[int, bytes]) -> bytes:
    return b"".join(place.to_bytes(_PLACE_BYTES, "big") + key for place, key in sorted(keys.items()))
