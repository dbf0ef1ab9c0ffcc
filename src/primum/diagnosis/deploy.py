"""The model owner: one sealed file each for dealer, A and B, and a public one for data owners.

    primum dealer --init dealer.card --address dealer.example.org:7401      at the crypto provider
    primum serve  --init a.card --address a.example.org:7411                at the institution that runs A
    primum serve  --init b.card --address b.example.org:7411                at the institution that runs B
    primum deploy MODEL --dealer dealer.card --a a.card --b b.card --out FOLDER

Everybody compares fingerprints by telephone; each file goes to its role, public.json to everyone who asks for
diagnoses. A deployed model is never changed: a new version is a new deployment with new masks.
"""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt

from primum.diagnosis.deployment import (
    Deployment,
    PublicFile,
    RoleFile,
    RoleName,
    check_roles,
    seal_role_file,
    signed_purpose,
)
from primum.diagnosis.files import write_message
from primum.diagnosis.roles import RoleCard
from primum.errors import InputError, MachineError
from primum.keys.identity import Identity
from primum.mpc.linear import mask_weight
from primum.mpc.program import linear_program
from primum.mpc.share import ROLES, Role, to_bytes
from primum.wire import Message, encode

if TYPE_CHECKING:
    from primum.models.card import TrainedModel

NAMES: Final[dict[RoleName, str]] = {"dealer": "dealer.json", "A": "server-a.json", "B": "server-b.json"}
PUBLIC: Final = "public.json"


def deploy(
    model: "TrainedModel",
    dealer: RoleCard,
    a: RoleCard,
    b: RoleCard,
    out_folder: Path,
    *,
    coarse: bool = False,
    identity: Identity | None = None,
) -> Deployment:
    """Write dealer.json, server-a.json, server-b.json (each sealed to its role) and public.json into `out_folder`.

    `coarse`: answers keep 8 fractional bits, which makes copying the model by asking harder. `identity`: the model
    owner's lasting key; without it one is made for this deployment and forgotten. Refuses two roles with one identity
    or key (InputError), a model whose range does not fit (ModelError), and a folder that already holds a deployment.
    """
    weight = model.weight.numpy()
    program = linear_program(weight, coarse=coarse)
    card = msgspec.json.decode(model.card.model_dump_json())
    owner = identity or Identity.generate()
    digest = model_digest(encode(_CardBytes(card)), weight)
    deployment = Deployment(os.urandom(32), digest, program, dealer, a, b, owner.public)
    check_roles(deployment)
    seeds: dict[Role, bytes] = {role: os.urandom(32) for role in ROLES}
    masked = to_bytes(mask_weight(program, weight, digest, seeds), program.bits)
    contents = (
        (RoleFile(deployment, "dealer", (seeds["A"], seeds["B"]), b""), dealer),
        (RoleFile(deployment, "A", (seeds["A"],), masked), a),
        (RoleFile(deployment, "B", (seeds["B"],), masked), b),
    )
    files: dict[str, Message] = {
        NAMES[content.role]: seal_role_file(content, owner.sign(signed_purpose(), encode(content)), role_card)
        for content, role_card in contents
    }
    public = PublicFile(deployment, card)
    files[PUBLIC] = msgspec.structs.replace(public, signature=owner.sign(signed_purpose(), public.unsigned()))
    _write(files, out_folder)
    return deployment


class _CardBytes(Message, frozen=True):
    card: dict[str, object]


def model_digest(card: bytes, weight: npt.NDArray[np.float32]) -> bytes:
    """32 bytes that name a model: its card and its weights, float32 in row order."""
    header = b"primum model\0" + len(card).to_bytes(8, "big") + card
    return hashlib.sha256(header + np.ascontiguousarray(weight, "<f4").tobytes()).digest()


def _write(files: dict[str, Message], folder: Path) -> None:
    present = [name for name in files if (folder / name).exists()]
    if present:
        raise InputError(
            f"{folder} already holds a deployment ({present[0]}).", "Choose another --out; deployments do not mix."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder} cannot be made: {error.strerror}.", "Choose another --out.") from None
    try:
        for name, message in files.items():
            write_message(folder / name, message)
    except BaseException:
        for name in files:
            (folder / name).unlink(missing_ok=True)
        raise
