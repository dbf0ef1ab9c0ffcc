"""Recorded transcripts: the wire format of version 1, and one named fault each."""

import json
from pathlib import Path
from typing import Any

import pytest

from primum import wire
from primum.errors import PeerError, Unavailable
from primum.keys.identity import Identity
from primum.secagg import Encapsulated, MaskedVector, Opening, Server, Setup, Shape, Signed

RECORDED = json.loads((Path(__file__).resolve().parents[1] / "vectors" / "secagg.json").read_text())
KINDS: dict[str, type[Any]] = {"take_encapsulated": Encapsulated, "take_vector": MaskedVector}


def server() -> Server:
    members = [bytes.fromhex(member) for member in RECORDED["members"]]
    made = Server(Identity.generate(), members, bytes.fromhex(RECORDED["run"]), Setup(**RECORDED["setup"]))
    made.begin_session(1, 1)
    return made


def play(to: Server, step: dict[str, Any]) -> Any:
    if step["call"] == "start":
        return to.start(bytes.fromhex(RECORDED["model"]), Shape(**RECORDED["shape"]))
    if step["call"] in ("offers", "request"):
        return getattr(to, step["call"])()
    if step["call"] == "finish":
        openings = {int(p): wire.decode(bytes.fromhex(m), Opening, "x") for p, m in step["openings"].items()}
        return to.finish(openings)
    message = wire.decode(bytes.fromhex(step["message"]), KINDS.get(step["call"], Signed), "x")
    return getattr(to, step["call"])(step["place"], message)


def test_the_recorded_sums_come_out_again() -> None:
    to, sums = server(), 0
    for step in RECORDED["steps"]:
        result = play(to, step)
        if step["call"] == "finish":
            assert result.total.tolist() == step["total"]
            assert list(result.included) == step["included"]
            sums += 1
    assert sums == 2
    assert to.round == 3


@pytest.mark.parametrize("bad", RECORDED["bad"], ids=lambda bad: f"{bad['name']}-{bad['after']}")
def test_each_fault_is_refused_by_name(bad: dict[str, Any]) -> None:
    to = server()
    for step in RECORDED["steps"][: bad["after"]]:
        play(to, step)
    with pytest.raises((PeerError, Unavailable), match=bad["error"]):
        play(to, bad)


def test_the_faults_are_many() -> None:
    assert len({bad["name"] for bad in RECORDED["bad"]}) >= 12
