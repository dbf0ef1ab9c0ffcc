"""A graphics card is one process's at a time; gradients on it: tests/tasks/test_classification.py."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from primum.accelerator import PROCESSOR, Accelerator, lock_of
from primum.errors import InputError, MachineError

HOLDER = """
import sys, time
from pathlib import Path
import torch
from primum.accelerator import Accelerator
with Accelerator(torch.device("cpu"), Path(sys.argv[1])).alone():
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "mps", "cuda:1:2", "", "cuda:99"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError):
        Accelerator.named(name)


def test_the_processor_waits_for_nobody() -> None:
    with PROCESSOR.alone() as one, PROCESSOR.alone() as other:
        assert one == other == torch.device("cpu")


def test_a_card_is_had_by_one_process_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "card.lock"
    card = Accelerator(torch.device("cpu"), path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(MachineError, match="in use by another program"), card.alone(0.1):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=10)
    with card.alone(5.0), pytest.raises(MachineError), card.alone(0.0):
        pass
    with card.alone(0.0):
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "card.lock").symlink_to(tmp_path / "target")
    with (
        pytest.raises(MachineError, match=r"card\.lock"),
        Accelerator(torch.device("cpu"), tmp_path / "card.lock").alone(),
    ):
        pass


def test_a_cards_name_cannot_lead_elsewhere() -> None:
    assert lock_of("../../etc/x").name == "primum-etcx.lock"
