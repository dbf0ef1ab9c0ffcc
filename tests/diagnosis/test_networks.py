"""Whole networks by three real processes: right, in groups, made ahead, by file, with little or no logit."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tests.diagnosis.conftest import run_primum, used_records
from tests.diagnosis.networks import (
    CLASSES,
    MEAN,
    SIZE,
    STD,
    ask,
    compare,
    deployed,
    drawn_pixels,
    in_groups_of,
    material,
    numbers_used,
    plain_answers,
    residual_onnx,
    settled,
    store,
)

from primum.diagnosis.data_owner import PixelPath, diagnose
from primum.diagnosis.deployable import Description, open_model
from primum.errors import InputError
from primum.models.card import NetworkCard

GROUP = 2
DEPTH = 2


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    return residual_onnx(tmp_path_factory.mktemp("onnx") / "network.onnx")


@pytest.fixture(scope="session")
def network(tmp_path_factory, onnx_file):
    """A residual network over normalised pixels; requests run in groups of two images, B keeps two numbers ahead."""
    model = open_model(onnx_file, Description(classes=CLASSES, mean=MEAN, std=STD))
    options = {"A": ["--ahead", str(DEPTH)], "B": ["--ahead", str(DEPTH)]}
    with deployed(tmp_path_factory.mktemp("network"), model, in_groups_of(GROUP, model), options) as made:
        assert made.public.card["mean"] == list(MEAN) and made.public.card["std"] == list(STD)
        yield made


def test_one_image_after_another_uses_what_was_made_ahead(network, onnx_file):
    """Number after number, each prepared before its request came; the material on disk is deleted before its use."""
    pixels = drawn_pixels(4)
    ask(network, pixels[:1])  # whatever came before this test
    used = []
    for one in pixels:
        ahead = settled(network, DEPTH)
        (answer,) = ask(network, one[None])
        compare([answer], plain_answers(onnx_file, one[None]))
        assert answer.number < ahead[0] and answer.number not in store(network)
        used.append(answer.number)
    assert used == list(range(used[0], used[0] + 4))
    assert settled(network, DEPTH) == [used[-1] + 2, used[-1] + 3]


def test_several_images_in_groups_of_one_request(network, onnx_file):
    """Five images are one request of three groups; its numbers follow each other and none is used by another."""
    pixels = drawn_pixels(5)
    before = used_records(network.folder / "A")
    diagnoses = ask(network, pixels)
    compare(diagnoses, plain_answers(onnx_file, pixels))
    ((first, count, _),) = used_records(network.folder / "A")[len(before) :]
    assert count == 5 and [one.number for one in diagnoses] == list(range(first, first + 5))
    assert used_records(network.folder / "B")[-1] == used_records(network.folder / "A")[-1]
    dealt = numbers_used(network, "dealer")
    assert dealt == sorted(set(dealt)) and set(range(first, first + 5)) <= set(dealt)
    assert min(settled(network, DEPTH)) > first + 4


def test_several_requests_at_once_and_in_many_pieces(network, onnx_file):
    """More images than one request holds: several requests are in flight, answers come in the order of the images."""
    pixels = drawn_pixels(19)
    diagnoses = ask(network, pixels)
    compare(diagnoses, plain_answers(onnx_file, pixels))
    assert len({one.number for one in diagnoses}) == 19


@pytest.mark.parametrize("again", ["B", "A", "dealer"])
def test_a_restart_of_any_role_makes_the_store_worthless(network, onnx_file, again):
    """Keys live in memory: what was dealt under the old ones is deleted, never used, and its numbers stay spent."""
    old = settled(network, DEPTH)
    contents = {material(network, number).read_bytes() for number in old}
    network.kill(again)
    if again == "B":
        assert store(network) == old
    network.start(again)
    pixels = drawn_pixels(1)
    answers = ask(network, pixels, tries=20)
    compare(answers, plain_answers(onnx_file, pixels))
    fresh = settled(network, DEPTH)
    assert answers[0].number > max(old) and min(fresh) > max(old)
    assert not contents & {material(network, number).read_bytes() for number in fresh}


def test_a_store_that_somebody_emptied_is_an_error_once(network, onnx_file):
    """Files that vanish under B cost one request at most; B goes on."""
    for number in settled(network, DEPTH):
        material(network, number).unlink()
    pixels = drawn_pixels(3)
    for one in pixels:
        compare(ask(network, one[None], tries=20), plain_answers(onnx_file, one[None]))
    assert network.running["B"].process.poll() is None and "Traceback" not in network.log("B")
    settled(network, DEPTH)


def test_a_server_started_without_ahead_leaves_no_old_material(network):
    settled(network, DEPTH)
    options, network.options = network.options, {}
    try:
        network.kill("B")
        network.start("B")
        assert store(network) == []
    finally:
        network.kill("B")
        network.options = options
        network.start("B")
    ask(network, drawn_pixels(1), tries=20)


@pytest.fixture
def pictures(tmp_path):
    """RGB files, and the pixels in them."""
    whole = (drawn_pixels(3) * 255).astype(np.uint8)
    paths = [tmp_path / f"patient{place}.png" for place in range(3)]
    for path, image in zip(paths, whole, strict=True):
        Pillow.fromarray(image.transpose(1, 2, 0)).save(path)
    return paths, whole.astype(np.float32) / 255


def test_a_diagnosis_of_pixels_travels_as_files(network, onnx_file, pictures, tmp_path):
    paths, pixels = pictures
    public = network.folder / "files" / "public.json"
    home, bag = tmp_path / "home", tmp_path / "bag"
    saved = run_primum("diagnose", *paths, "--deployment", public, "--save-request", home)
    assert saved.returncode == 0, saved.stderr
    bag.mkdir()
    for name in ("request-a.json", "request-b.json"):
        shutil.copy(home / name, bag)
    carried = run_primum("diagnose", "--deployment", public, "--carry", bag)
    assert carried.returncode == 0, carried.stderr
    for name in ("answer-a.json", "answer-b.json"):
        shutil.copy(bag / name, home)
    opened = run_primum("diagnose", "--deployment", public, "--from-answers", home, "--json")
    assert opened.returncode == 0, opened.stderr
    rows = json.loads(opened.stdout)
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    got = np.array([[row["logits"][name] for name in CLASSES] for row in rows])
    np.testing.assert_allclose(got, plain_answers(onnx_file, pixels), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    "wrong, named",
    [
        (drawn_pixels(1, channels=1), "images of shape"),
        (drawn_pixels(1, size=SIZE + 1), "images of shape"),
        (drawn_pixels(1) * np.float32(np.inf), "finite"),
    ],
)
def test_images_of_another_shape_are_refused_before_anything_is_sent(network, wrong, named):
    before = used_records(network.folder / "A")
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=named):
        diagnose(torch.from_numpy(wrong), network.public)
    assert used_records(network.folder / "A") == before


def test_pixels_outside_their_range_are_clipped_at_the_data_owner(network, onnx_file):
    """What was calibrated holds for [0, 1]; a file cannot push a value beyond it."""
    pixels = drawn_pixels(2) * 6 - 3
    compare(ask(network, pixels), plain_answers(onnx_file, pixels.clip(0, 1)))


def test_only_the_class_comes_out(tmp_path, onnx_file):
    """No logit: 1 for the class, 0 for the others, also in what the two answers add up to."""
    said = Description(classes=CLASSES, mean=MEAN, std=STD, only_class=True)
    with deployed(tmp_path, open_model(onnx_file, said, coarse=True)) as cluster:
        pixels = drawn_pixels(6)
        diagnoses = ask(cluster, pixels)
        plain = plain_answers(onnx_file, pixels)
    ordered = np.sort(plain, 1)
    for one, logits, lead in zip(diagnoses, plain, ordered[:, -1] - ordered[:, -2], strict=True):
        assert sorted(one.logits) == [0, 0, 1] == sorted(one.probabilities)
        assert lead < 0.02 or one.best == CLASSES[logits.argmax()]


def test_one_output_that_ends_in_a_sigmoid_is_the_probability_of_the_second_class(tmp_path):
    path = residual_onnx(tmp_path / "binary.onnx", "Sigmoid", outputs=1)
    model = open_model(path, Description(classes=("absent", "present"), mean=MEAN, std=STD))
    way = PixelPath(NetworkCard.model_validate(model.card, strict=False), model.program)
    plain = plain_answers(path, drawn_pixels(4)).astype(np.float64)
    logits = np.log(plain / (1 - plain))
    got = way.probabilities(np.concatenate([np.zeros_like(logits), logits], 1))
    np.testing.assert_allclose(got, np.concatenate([1 - plain, plain], 1), rtol=0, atol=1e-6)
    assert way.classes == ("absent", "present")
