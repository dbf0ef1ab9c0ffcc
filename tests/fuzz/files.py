"""Mutated files at every doorway: what users hand in, what travels between people, what lies in state folders.

A crash is any exception that is not a PrimumError, from the function that the commands open the file with. Accepted is a
file that is signed, sealed or named by its digest, and is opened with another content. (What a person writes himself is
not: a study with another name is another study. Neither is an image.)
"""

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.diagnosis.conftest import Cluster
from tests.federation.playing import PATTERN, Hospital, World, build, make_study
from tests.fuzz.counts import Counts
from tests.fuzz.mutations import Draw, changed_file
from tests.imaging.samples import KEY, dicom, two_classes
from tests.imaging.test_nrrd import nrrd
from tests.imaging.volumes import body, nifti

from primum import archive, wire
from primum.diagnosis.client import carry
from primum.diagnosis.data_owner import open_saved, save_requests
from primum.diagnosis.deployment import load_public, open_role_file
from primum.diagnosis.files import read_message, write_message
from primum.diagnosis.messages import Answer
from primum.diagnosis.numbers import UsedNumbers
from primum.diagnosis.requests import open_request, seal_answer
from primum.diagnosis.roles import load_card, load_keys, save_card
from primum.diagnosis.tokens import TokenBook, load_token, make_token, save_token
from primum.dp.ledger import Ledger
from primum.errors import PrimumError
from primum.federation.approval import Approvals
from primum.federation.control import Control
from primum.federation.coordinator import State
from primum.federation.desk import Desk as NodeDesk
from primum.federation.enrolment import JoinFile, Register
from primum.federation.memory import Memory
from primum.federation.node import NodeState, ResidentNode
from primum.federation.node_settings import NodeSettings
from primum.federation.pins import Pins, Rotation
from primum.federation.policy import Policy
from primum.federation.runs import Run
from primum.federation.scientist import Desk, StatusRequest
from primum.federation.way import Way, host_and_port
from primum.federation.witness import read_verified
from primum.imaging import PatientSource, Preparation, read_folder, read_image, read_volume
from primum.journal import Journal
from primum.keys.certificate import CertificateFiles, ending, load_or_make
from primum.keys.identity import Identity
from primum.keys.sealing import SealingKey
from primum.models.card import load_model
from primum.mpc.share import ROLES, to_bytes
from primum.report import write_report
from primum.study import Study
from primum.tasks.plan import Plan
from primum.tasks.training import Optimiser


@dataclass(frozen=True)
class Doorway:
    """A sound file, and how it is opened; `kept` returns what an altered one must not change."""

    name: str
    file: Path
    open: Callable[[Path], Any]
    sealed: bool = False


def doorways(folder: Path) -> list[Doorway]:
    """One of each, in `folder`."""
    return [*_federation(folder / "federation"), *_diagnosis(folder / "diagnosis"), *_images(folder / "images")]


# -- what is opened -----------------------------------------------------------------------------------------------------


def _federation(folder: Path) -> list[Doorway]:
    world = build(folder, 3, epsilon_cap=100.0)
    run = world.train(make_study(world.members, rounds=2))
    node, hub = world.hospitals[1], State.open(folder / "hub")
    study = folder / "study.toml"
    study.write_text(make_study(world.members).text())
    certificate = load_or_make(hub.folder, "127.0.0.1").pem()
    desk = Desk(address="127.0.0.1:9443", coordinator=world.coordinator.public.hex(), certificate=certificate)
    (hub.folder / "coordinator.toml").write_text(desk.text())
    join = folder / "hospital.join"
    join.write_text(hub.invite("North"))
    state = node.state.folder
    pins = {"coordinator": world.coordinator.public.hex(), "number": 1, "certificates": [certificate]}
    (state / "certificates.json").write_bytes(wire.msgspec.json.encode(pins))
    Rotation(hub.folder).order(3, "127.0.0.1")
    return [
        Doorway("study.toml", study, lambda path: Plan(Study.read(path)).check()),
        Doorway("policy.toml", state / "policy.toml", _open_policy(world)),
        Doorway("node.toml", state / "node.toml", _open_settings),
        Doorway("join file", join, lambda path: _open_join(path, folder)),
        Doorway("coordinator.toml", hub.folder / "coordinator.toml", _open_desk),
        Doorway("card.json of a model", run.folder / "card.json", lambda path: load_model(path.parent).card),
        Doorway("model.safetensors", run.folder / "model.safetensors", _weights, sealed=True),
        Doorway("request.bin", run.folder / "request.bin", lambda path: Run(path.parent).signed_study()),
        Doorway("checkpoint", run.folder / "checkpoint.safetensors", lambda path: _resume(world, path)),
        Doorway("status.json", run.folder / "status.json", lambda path: _status(path, world)),
        Doorway("waiting.json", _waiting(run), lambda path: _status(path, world)),
        Doorway("started.json", run.folder / "started.json", lambda path: Run(path.parent).started()),
        Doorway("summary.json", run.folder / "summary.json", lambda path: write_report(path.parent)),
        Doorway("metrics.jsonl", run.folder / "metrics.jsonl", lambda path: write_report(path.parent)),
        Doorway("journal.jsonl", state / "journal.jsonl", _open_journal(node), sealed=True),
        Doorway("journal.jsonl, to go on", state / "journal.jsonl", _append_journal(node)),
        Doorway("ledger.sqlite", state / "ledger.sqlite", _open_ledger(state)),
        Doorway("memory.sqlite", state / "memory.sqlite", _open_memory),
        Doorway("memory.sqlite, by its people", state / "memory.sqlite", lambda path: NodeDesk(path.parent).cases()),
        Doorway("members.sqlite", hub.folder / "members.sqlite", lambda path: Register(path.parent).members()),
        Doorway("certificates.json", state / "certificates.json", lambda path: _open_pins(path, world, certificate)),
        Doorway("rotation.json", hub.folder / "rotation.json", lambda path: Rotation(path.parent).shown()),
        Doorway("scientists.txt", _scientists(hub), lambda path: State(path.parent).scientists()),
        Doorway("identity.pem", state / "identity.pem", Identity.load_or_make),
        Doorway("transport.pem", _transport(state), lambda path: NodeState(path.parent).transport()),
        Doorway("tls.pem", hub.folder / "tls.pem", _open_certificate),
        Doorway("backup", _backup(state, folder), lambda path: _restore(path, folder)),
    ]


def _weights(path: Path) -> list[float]:
    found = load_model(path).weight
    values: list[float] = found.reshape(-1).tolist()
    return values


def _open_policy(world: World) -> Callable[[Path], Any]:
    study = make_study(world.members)

    def open_it(path: Path) -> None:
        import datetime

        policy = Policy.read(path)
        assert policy is not None
        _ = policy.cap.budget
        policy.check(study, world.scientist.public, datetime.date(2026, 1, 1))

    return open_it


def _open_settings(path: Path) -> None:
    settings = NodeSettings.read(path)
    PatientSource(settings.patient, settings.one_image_per_patient).named("p1_1.png")
    way = Way("127.0.0.1:1", "", settings.proxy, settings.authority)
    _ = way.proxy_url()


def _open_join(path: Path, folder: Path) -> None:
    join = JoinFile.read(path)
    host_and_port(join.address)
    Way(join.address, join.certificate).context()
    ResidentNode(NodeState.open(folder / "newcomer"), join, folder, lambda text: None)


def _open_desk(path: Path) -> None:
    desk = Desk.read(path)
    host_and_port(desk.address)
    Way(desk.address, desk.certificate).context()


def _resume(world: World, path: Path) -> None:
    run = Run(path.parent)
    found = run.last_checkpoint()
    assert found is not None
    study = Study.parse(run.signed_study().text, "the study")
    optimiser = Optimiser.start(study.training, Plan(study).first_weights())
    optimiser.restore(found)


def _waiting(run: Run) -> Path:
    run.wait("vectors", [1, 2], 5.0)
    return run.folder / "waiting.json"


def _status(path: Path, world: World) -> Any:
    run = Run(path.parent)
    if path.name == "waiting.json":
        run.set_status("running")
    control = Control(path.parent.parent, list, Journal(world.folder / "hub.jsonl", world.coordinator))
    return control.status(StatusRequest(run.name))


def _open_journal(node: Hospital) -> Callable[[Path], Any]:
    owner = node.identity.public
    return lambda path: [link.entry for link in read_verified(path, owner)]


def _append_journal(node: Hospital) -> Callable[[Path], Any]:
    return lambda path: Journal(path, node.identity).write("test")


def _open_ledger(state: Path) -> Callable[[Path], Any]:
    policy = Policy.read(state / "policy.toml")
    assert policy is not None

    def open_it(path: Path) -> None:
        ledger = Ledger(path, policy.cap)
        ledger.entries()
        ledger.reserve("study", "run", 1, "training", 0.001)

    return open_it


def _open_memory(path: Path) -> None:
    memory = Memory(path)
    memory.use_round(b"run", memory.used_round(b"run") + 1)
    Approvals(path).requests()


def _open_pins(path: Path, world: World, certificate: str) -> None:
    pins = Pins(path, Way("127.0.0.1:1", certificate), world.coordinator.public)
    pins._pinning(pins._known()).context()


def _scientists(hub: State) -> Path:
    (hub.folder / "scientists.txt").write_text(Identity.generate().public.hex() + "\n")
    return hub.folder / "scientists.txt"


def _transport(state: Path) -> Path:
    NodeState(state).transport()
    return state / "transport.pem"


def _open_certificate(path: Path) -> None:
    ending(CertificateFiles(path, path).pem(), "the coordinator", "")


def _backup(state: Path, folder: Path) -> Path:
    archive.backup(state, folder / "backup.tar.gz", "0.1.0")
    return folder / "backup.tar.gz"


def _restore(path: Path, folder: Path) -> None:
    target = folder / "restored"
    shutil.rmtree(target, ignore_errors=True)
    archive.restore(path, target, lambda where, manifest: None)


def _diagnosis(folder: Path) -> list[Doorway]:
    owner = Identity.generate()
    cluster = Cluster.make(folder, owner=owner, tokens=True)
    public, files = cluster.public, folder / "files"
    save_card(public.deployment.dealer, folder / "dealer.card")
    save_token(make_token(owner, public.deployment, "clinic", 100, 5), folder / "clinic.token")
    permit = load_token(folder / "clinic.token", public.deployment)
    picture = two_classes(folder / "pictures", 1)
    save_requests([next(picture.rglob("*.png"))], public, folder / "case", permit)
    for role in ROLES:
        keys = load_keys(folder / role)
        request = read_message(folder / "case" / f"request-{role.lower()}.json", wire_request(), 1 << 20)
        opened = open_request(request, role, public.deployment, keys.sealing)
        share = to_bytes(np.zeros((1, 1), np.uint64), public.deployment.program.answer_bits).tobytes()
        answer = seal_answer(opened, role, 1, share, public.deployment, keys.identity)
        write_message(folder / "case" / f"answer-{role.lower()}.json", answer)
    UsedNumbers(folder / "A").record(1, 1, bytes(32))
    UsedNumbers(folder / "A").record(2, 1, b"2" * 32)
    TokenBook(folder / "A")
    found = [
        Doorway("public.json", files / "public.json", load_public, sealed=True),
        Doorway("dealer.json", files / "dealer.json", _open_role(folder, "dealer"), sealed=True),
        Doorway("server-a.json", files / "server-a.json", _open_role(folder, "A"), sealed=True),
        Doorway("role card", folder / "dealer.card", lambda path: load_card(path, "dealer"), sealed=True),
        Doorway("token", folder / "clinic.token", lambda path: load_token(path, public.deployment), sealed=True),
        Doorway("used.bin", folder / "A" / "used.bin", lambda path: UsedNumbers(path.parent)),
        Doorway("seal.key", folder / "A" / "seal.key", SealingKey.load_or_make),
        Doorway("request-a.json", folder / "case" / "request-a.json", lambda path: carry_nowhere(path, public)),
        Doorway("names.json", folder / "case" / "names.json", lambda path: open_saved(path.parent, public)),
    ]
    for role in ROLES:
        file = folder / "case" / f"answer-{role.lower()}.json"
        found.append(Doorway(file.name, file, lambda path: _logits(path, public), sealed=True))
    return found


def wire_request() -> Any:
    from primum.diagnosis.messages import Request

    return Request


def carry_nowhere(path: Path, public: Any) -> None:
    """As `primum diagnose --carry`, where no server is."""
    carry(path.parent, public)


def _logits(path: Path, public: Any) -> Any:
    names, diagnoses = open_saved(path.parent, public)
    return names, [(one.logits, one.number) for one in diagnoses]


def _open_role(folder: Path, role: str) -> Callable[[Path], Any]:
    keys = load_keys(folder / role)
    roles: tuple[Any, ...] = ("dealer",) if role == "dealer" else ("A", "B")
    return lambda path: open_role_file(path, keys, roles)


def _images(folder: Path) -> list[Doorway]:
    preparation = Preparation(16)
    folder.mkdir(parents=True)
    pictures = two_classes(folder / "classes", 6)
    picture = sorted(pictures.rglob("*.png"))[0]
    jpeg = folder / "picture.jpg"
    from PIL import Image as Pillow

    with Pillow.open(picture) as opened:
        opened.save(jpeg)
    packed = folder / "folder.zip"
    with zipfile.ZipFile(packed, "w") as zipped:
        for path in sorted(pictures.rglob("*.png")):
            zipped.write(path, str(path.relative_to(pictures)))
    labels = folder / "listed"
    labels.mkdir()
    for number, path in enumerate(sorted(pictures.rglob("*.png"))):
        shutil.copy(path, labels / f"p{number}_1.png")
    lines = [f"p{number}_1.png,{'ab'[number % 2]},p{number}" for number in range(len(list(labels.iterdir())))]
    (labels / "labels.csv").write_text("\n".join(["file,label,patient", *lines]) + "\n")
    source = PatientSource(PATTERN, True)
    return [
        Doorway("PNG", picture, lambda path: read_image(path, preparation)),
        Doorway("JPEG", jpeg, lambda path: read_image(path, preparation)),
        Doorway("DICOM", dicom(folder / "picture.dcm"), lambda path: read_image(path, preparation)),
        Doorway("NIfTI", nifti(folder / "volume.nii", body()), read_volume),
        Doorway("NIfTI, gzip", nifti(folder / "volume.nii.gz", body()), read_volume),
        Doorway("NRRD", nrrd(folder / "volume.nrrd", body()), read_volume),
        Doorway("zip of a folder", packed, lambda path: _read(path, source)),
        Doorway("labels.csv", labels / "labels.csv", lambda path: _read(path.parent, source)),
    ]


def _read(folder: Path, source: PatientSource) -> Any:
    return read_folder(folder, None, preparation=Preparation(16), patients=source, pseudonym_key=KEY)


# -- the mutants --------------------------------------------------------------------------------------------------------


def fuzz_files(folder: Path, count: int, label: str = "files", only: str = "") -> Counts:
    """`count` mutants, in turns of all doorways; the sound file is put back after each."""
    counts, draw = Counts(), Draw(label)
    found = [door for door in doorways(folder) if only in door.name]
    sound = {door.name: _sound(door) for door in found}
    for number in range(count):
        door = found[number % len(found)]
        before, value = sound[door.name]
        kept = {path: path.read_bytes() for path in _beside(door.file)}
        door.file.write_bytes(changed_file(before, draw))
        counts.count(True)
        try:
            opened = door.open(door.file)
        except PrimumError as error:
            counts.refusals[f"{door.name}: {type(error).__name__}"] += 1
        except Exception as error:  # a crash: what this looks for
            counts.crash(door.name, error)
        else:
            counts.refusals[f"{door.name}: opened"] += 1
            if door.sealed and opened != value:
                counts.accepted.append(f"{door.name}: opened with another content")
        for path, data in kept.items():
            path.write_bytes(data)
        door.file.write_bytes(before)
    return counts


def _beside(file: Path) -> list[Path]:
    """Small files that opening one may change."""
    if file.name in ("status.json", "waiting.json", "checkpoint.safetensors"):
        return [path for path in file.parent.iterdir() if path.is_file()]
    return []


def _sound(door: Doorway) -> tuple[bytes, Any]:
    data, value = door.file.read_bytes(), None
    try:
        value = door.open(door.file)
    except PrimumError as error:
        if door.name != "request-a.json":  # which is sent nowhere
            raise AssertionError(f"{door.name}: the sound file is refused: {error}") from error
    door.file.write_bytes(data)
    return data, value


__all__ = ["Answer", "Doorway", "doorways", "fuzz_files"]
