"""`primum pacs`: the two verbs as a person types them, against a real sender and a real server."""

import os
import re
import signal
import socket
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import dcmread
from pynetdicom import AE
from tests.imaging.samples import WHEEL
from tests.imaging.test_dicomweb import _archive, _serving

from primum.cli.pacs import command
from primum.errors import InputError, MachineError
from primum.federation.node import NodeState
from primum.imaging import pseudonym
from primum.ports import free_port

CT = WHEEL / "CT_small.dcm"


@pytest.fixture
def _signals() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _send(port: int, answers: list[int]) -> None:
    """Send a CT twice as soon as somebody listens, then end this process's `receive` as `kill` would."""
    entity = AE(ae_title="PACS")
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.2", dcmread(CT).file_meta.TransferSyntaxUID)
    for _ in range(400):
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    association = entity.associate("127.0.0.1", port, ae_title="NODE")
    answers += [association.send_c_store(CT).Status for _ in range(2)]
    association.release()
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("_signals")
def test_receive_until_it_is_ended_and_say_what_was_removed(tmp_path: Path) -> None:
    port, answers, state = free_port(), list[int](), tmp_path / "state"
    sender = threading.Thread(target=_send, args=(port, answers))
    sender.start()
    words = ["receive", "--to", str(tmp_path / "to"), "--state", str(state), "--port", str(port), "--title", "NODE"]
    result = CliRunner().invoke(command, [*words, "--from", "PACS", "--class-from", "Modality"])
    sender.join()
    assert result.exit_code == 0 and answers == [0, 0], result.output
    patient = pseudonym("1CT1", NodeState.open(state).pseudonym_key)
    assert len(list((tmp_path / "to" / "CT" / patient).glob("*/*.dcm"))) == 1
    assert f"READY NODE at 127.0.0.1:{port}" in result.output
    assert "1 new files" in result.output and "1 were there" in result.output
    assert re.search(r"1  PatientAge\n", result.output) and "private elements" in result.output
    assert "CompressedSamples" not in result.output and "1CT1" not in result.output


def test_pull_and_say_what_came(tmp_path: Path) -> None:
    words = ["--to", str(tmp_path / "to"), "--state", str(tmp_path / "state"), "--blank", "0,0,2,2", "--blank-text"]
    with _serving(_archive(["CT_small.dcm", "SC_rgb_jpeg_dcmtk.dcm"])) as url:
        first = CliRunner().invoke(command, ["pull", url, *words])
        again = CliRunner().invoke(command, ["pull", url, *words])
    assert first.exit_code == 0, first.output
    assert "2 found, 2 fetched." in first.output and "Rectangles blanked: " in first.output
    assert "2 found, 0 fetched." in again.output and "2 were there" in again.output and "Removed" not in again.output


@pytest.mark.parametrize("verb", [[], ["receive"], ["pull"]])
def test_help_fits_on_a_page(verb: list[str]) -> None:
    result = CliRunner().invoke(command, [*verb, "--help"])
    assert result.exit_code == 0 and len(result.output.splitlines()) <= 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["receive", "--address", "0.0.0.0"], "everybody could send"),
        (["receive", "--port", "99999"], "--port"),
        (["receive", "--blank", "1,2,3"], "top,left,bottom,right"),
        (["receive", "--certificate", "x.pem"], "--certificate and --key"),
        (["pull", "pacs"], "no URL"),
        (["pull", "http://127.0.0.1/x", "--study-date", "May"], "20240131"),
    ],
)
def test_mistakes_are_said(tmp_path: Path, words: list[str], said: str) -> None:
    result = CliRunner().invoke(command, [*words, "--to", str(tmp_path), "--state", str(tmp_path / "state")])
    assert result.exit_code != 0 and said in f"{result.output}{result.exception}"
    assert isinstance(result.exception, InputError | SystemExit)


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (Path("/proc/x"), tmp_path / "file"):
        result = CliRunner().invoke(command, ["receive", "--to", str(folder), "--state", str(tmp_path / "state")])
        assert isinstance(result.exception, MachineError) and f"{folder} cannot be made" in result.exception.message
        assert "READY" not in result.output
