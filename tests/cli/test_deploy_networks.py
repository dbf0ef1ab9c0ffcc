"""`primum mpc plan` and `primum deploy` with ONNX files: what is wrong is said in a line or two, and nothing is written."""

import json
import sys

import pytest
from onnx import helper
from tests.command import run_command
from tests.diagnosis.networks import CHANNELS, CLASSES, SIZE, drawn_weights, residual_onnx, save_onnx

from primum.cli import main
from primum.diagnosis.deploy import NAMES, PUBLIC
from primum.diagnosis.deployment import load_public
from primum.diagnosis.roles import make_role, save_card
from primum.errors import InputError

NORMALISED = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Cards of three roles, and models that can and cannot be deployed."""
    folder = tmp_path_factory.mktemp("models")
    for place, (name, kind) in enumerate((("dealer", "dealer"), ("a", "server"), ("b", "server"))):
        save_card(make_role(kind, folder / f"state-{name}", f"127.0.0.1:{17401 + 10 * place}"), folder / f"{name}.card")
    residual_onnx(folder / "good.onnx")
    residual_onnx(folder / "open.onnx", size="side")
    residual_onnx(folder / "four.onnx", channels=4)
    residual_onnx(folder / "single.onnx", "Sigmoid", outputs=1)
    weights = {"w": drawn_weights("w", 6, CHANNELS, 3, 3)}
    convolution = helper.make_node("Conv", ["image", "w"], ["c"], "stem", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    strange = [
        convolution,
        helper.make_node("Det", ["c"], ["d"], "determinant"),
        helper.make_node("Erf", ["c"], ["e"], "fine"),
        helper.make_node("GridSample", ["e", "c"], ["answer"], "sampling"),
    ]
    save_onnx(folder / "strange.onnx", strange, (CHANNELS, SIZE, SIZE), weights, 3)
    square = [helper.make_node("Conv", ["image", "w"], ["answer"], "stem", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    save_onnx(folder / "map.onnx", square, (CHANNELS, SIZE, SIZE), weights, 6)
    save_onnx(folder / "long.onnx", square, (CHANNELS, SIZE, SIZE + 2), weights, 6)
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_bytes(b"not a model")
    (folder / "nothing").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text("hello")
    return folder


def primum(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["primum", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def deployment_of(folder, out, model, *options):
    cards = [part for name in ("dealer", "a", "b") for part in (f"--{name}", folder / f"{name}.card")]
    return ["deploy", folder / model, *cards, "--out", out, *options]


WRONG = {
    "unsupported operators": ("strange.onnx", [], ["Det", "determinant", "GridSample", "sampling"]),
    "no size": ("open.onnx", [], ["images of"]),
    "another size": ("good.onnx", ["--size", "32"], ["(0, 32, 32)"]),
    "a size below 1": ("open.onnx", ["--size", "-5"], ["-5"]),
    "too few classes": ("good.onnx", ["--classes", "a,b"], ["3 outputs for 2 classes"]),
    "too many classes": ("good.onnx", ["--classes", "a,b,c,d"], ["3 outputs for 4 classes"]),
    "one class": ("good.onnx", ["--classes", "a"], ["two or more"]),
    "a class twice": ("good.onnx", ["--classes", "a,b,a"], ["a,b,a"]),
    "a class without a name": ("good.onnx", ["--classes", "a,,b"], ["a,,b"]),
    "two means": ("good.onnx", ["--mean", "0.1,0.2"], ["`mean`", "3 numbers"]),
    "a mean of no number": ("good.onnx", ["--mean", "grey"], ["not a list of numbers"]),
    "a mean that is none": ("good.onnx", ["--mean", "nan,0,0"], ["`mean`"]),
    "a deviation of zero": ("good.onnx", [*NORMALISED[:2], "--std", "0,1,1"], ["`std` above 0"]),
    "an infinite deviation": ("good.onnx", ["--std", "inf,1,1"], ["`std`"]),
    "a deviation that leaves no bits": ("good.onnx", ["--std", "1e-30,1e-30,1e-30"], ["`stem`", "does not fit"]),
    "no such file": ("missing.onnx", [], ["missing.onnx", "No such file"]),
    "an empty file": ("empty.onnx", [], ["not a valid ONNX model"]),
    "another file": ("text.onnx", [], ["not an ONNX file"]),
    "not square": ("long.onnx", [], ["16 x 18"]),
    "four channels": ("four.onnx", [], ["4 x 16 x 16"]),
    "a map, no classes": ("map.onnx", [], ["16 x 16 places"]),
    "the only class of one": ("single.onnx", ["--only-class"], ["one output"]),
    "no calibration": ("good.onnx", ["--calibrate", "{folder}/nothing"], ["holds no files"]),
    "no images in it": ("good.onnx", ["--calibrate", "{folder}/notes"], ["notes.txt"]),
    "options of ONNX for a folder": ("nothing", ["--classes", "a,b"], ["it has a card"]),
    "no model": ("nothing", [], ["card.json"]),
}


@pytest.mark.parametrize("verb", ["deploy", "plan"])
@pytest.mark.parametrize("model, options, named", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_model_is_said_and_nothing_is_written(
    folder, monkeypatch, capsys, tmp_path, verb, model, options, named
):
    options = [option.format(folder=folder) for option in options]
    out, key = tmp_path / "out", tmp_path / "owner.pem"
    arguments = ["mpc", "plan", folder / model, *options]
    if verb == "deploy":
        arguments = deployment_of(folder, out, model, "--identity", key, *options)
    code, printed, errors = primum(monkeypatch, capsys, *arguments)
    assert code == InputError.exit_code, errors
    for text in named:
        assert text in errors
    assert errors.startswith("Error: ") and len(errors.splitlines()) <= 2 and "Traceback" not in errors
    assert printed == "" and list(tmp_path.iterdir()) == []


def test_every_unsupported_operator_is_named_and_no_other(folder, monkeypatch, capsys):
    _, _, errors = primum(monkeypatch, capsys, "mpc", "plan", folder / "strange.onnx")
    assert "2 kinds of layers" in errors and "stem" not in errors


def test_a_plan_says_what_it_costs(folder, monkeypatch, capsys):
    code, printed, _ = primum(monkeypatch, capsys, "mpc", "plan", folder / "good.onnx", *NORMALISED, "--all")
    assert code == 0
    for name in ("stem", "pool", "relu1", "linear", "rounds", "MB from the dealer to B"):
        assert name in printed
    link = ["--link", "20ms, 100Mbit", "--json"]
    code, printed, _ = primum(monkeypatch, capsys, "mpc", "plan", folder / "open.onnx", "--size", SIZE, *link)
    said = json.loads(printed)
    assert said["cost"]["rounds"] == sum(row["rounds"] for row in said["operations"])
    assert said["seconds_over_link"] > said["cost"]["rounds"] * 0.01


@pytest.mark.parametrize("link", ["fast", "1.2.3ms,5mbit", ".ms,5mbit", "20ms", "20ms,0mbit", "-5ms,1gbit", "20ms,5mb"])
def test_a_link_that_is_none_is_refused(folder, monkeypatch, capsys, link):
    code, _, errors = primum(monkeypatch, capsys, "mpc", "plan", folder / "good.onnx", "--link", link)
    assert code == InputError.exit_code and "20ms,100Mbit" in errors


def test_a_network_is_deployed_from_the_command_line(folder, tmp_path):
    """As a process of its own: four files, and a card that says all that a data owner needs."""
    names = ["--classes", ",".join(CLASSES), *NORMALISED, "--coarse"]
    arguments = deployment_of(folder, tmp_path / "out", "good.onnx", *names)
    done = run_command(*map(str, arguments))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*NAMES.values(), PUBLIC])
    public = load_public(tmp_path / "out" / PUBLIC)
    assert public.card["classes"] == list(CLASSES) and public.card["ending"] == "softmax"
    assert public.card["mean"] == [0.485, 0.456, 0.406] and public.deployment.program.answer_fraction == 8
    assert public.deployment.fingerprint() in done.stdout


@pytest.mark.parametrize("ahead", ["-1", "many"])
def test_serve_refuses_a_depth_that_is_none(monkeypatch, capsys, tmp_path, ahead):
    code, _, errors = primum(monkeypatch, capsys, "serve", tmp_path / "x.json", "--ahead", ahead)
    assert code == 2 and "--ahead" in errors
