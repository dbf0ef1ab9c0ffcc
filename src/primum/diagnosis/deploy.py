"""The model owner: one sealed file each for dealer, A and B, and a public one for data owners.

    primum dealer --init dealer.card --address dealer.example.org:7401      at the crypto provider
    primum serve  --init a.card --address a.example.org:7411                at the institution that runs A
    primum serve  --init b.card --address b.example.org:7411                at the institution that runs B
    primum deploy MODEL --dealer dealer.card --a a.card --b b.card --out FOLDER

Everybody compares fingerprints by telephone; each file goes to its role, public.json to everyone who asks for
diagnoses. A deployed model is never changed: a new version is a new deployment with new masks.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from primum.diagnosis.deployable import Deployable
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
from primum.mpc.check import check
from primum.mpc.linear import mask_weights
from primum.mpc.share import ROLES, Role, to_bytes
from primum.wire import Message, encode

NAMES: Final[dict[RoleName, str]] = {"dealer": "dealer.json", "A": "server-a.json", "B": "server-b.json"}
PUBLIC: Final = "public.json"


def deploy(
    model: Deployable,
    dealer: RoleCard,
    a: RoleCard,
    b: RoleCard,
    out_folder: Path,
    *,
    identity: Identity | None = None,
    tokens: bool = False,
) -> Deployment:
    """Write dealer.json, server-a.json, server-b.json (each sealed to its role) and public.json into `out_folder`.

    `identity`: the model owner's lasting key; without it one is made for this deployment and forgotten. Refuses two
    roles with one identity or key (InputError), and a folder that already holds a deployment. `tokens`: requests are
    answered only with a token that this identity signs.
    """
    if tokens and identity is None:
        raise InputError("Tokens are signed by your lasting key.", "Give --identity as well.")
    program = model.program
    check(program)
    owner = identity or Identity.generate()
    digest = model.digest()
    deployment = Deployment(os.urandom(32), digest, program, dealer, a, b, owner.public, tokens)
    check_roles(deployment)
    seeds: dict[Role, bytes] = {role: os.urandom(32) for role in ROLES}
    masked = to_bytes(mask_weights(program, model.weights, digest, seeds), program.bits).tobytes()
    contents = (
        (RoleFile(deployment, "dealer", (seeds["A"], seeds["B"]), b""), dealer),
        (RoleFile(deployment, "A", (seeds["A"],), masked), a),
        (RoleFile(deployment, "B", (seeds["B"],), masked), b),
    )
    files: dict[str, Message] = {
        NAMES[content.role]: seal_role_file(content, owner.sign(signed_purpose(), encode(content)), role_card)
        for content, role_card in contents
    }
    public = PublicFile(deployment, model.card)
    files[PUBLIC] = msgspec.structs.replace(public, signature=owner.sign(signed_purpose(), public.unsigned()))
    _write(files, out_folder)
    return deployment


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
