"""`--device`: a card that is not there is named before anything is opened."""

import sys

import pytest
import torch
from click.testing import CliRunner

from primum.cli import _group
from primum.errors import InputError
from primum.kernels import device


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tpu", "no device 'tpu'"),
        pytest.param(
            "cuda",
            "no graphics card",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a graphics card"),
        ),
    ],
)
def test_a_device_that_is_not_there_is_refused(tmp_path, name, said):
    interval = sys.getswitchinterval()
    try:
        words = ["serve", str(tmp_path / "server-a.json"), "--state", str(tmp_path), "--threads", "1", "--device", name]
        found = CliRunner().invoke(_group, words).exception
    finally:
        sys.setswitchinterval(interval)
    assert isinstance(found, InputError) and said in str(found)
    assert not device._devices
