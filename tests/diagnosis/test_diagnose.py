"""Diagnoses by three real processes: right, online and by file."""

import json
import math

import pytest
import torch
from PIL import Image as Pillow
from tests.diagnosis.conftest import Cluster, images, run_primum, used_records

from primum.diagnosis.data_owner import diagnose, open_saved, save_requests
from primum.errors import InputError, PeerError, Refused
from primum.imaging import read_image
from primum.imaging.phantom import draw
from primum.imaging.prepare import Preparation


def compare(model, batch, diagnoses):
    plain = model.logits(batch)
    private = torch.tensor([one.logits for one in diagnoses])
    assert (plain - private).abs().max() < 0.01
    top = plain.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 0.02
    assert (plain.argmax(1) == private.argmax(1))[clear].all()
    assert torch.allclose(torch.tensor([one.probabilities for one in diagnoses]), torch.softmax(private, 1), atol=1e-6)


def test_diagnoses_are_those_of_the_plain_model_in_the_order_of_the_images(cluster):
    batch = images(37)
    done = []
    diagnoses = diagnose(batch, cluster.public, progress=done.append)
    compare(cluster.model, batch, diagnoses)
    assert done[-1] == 37
    assert len({one.number for one in diagnoses}) == 37
    assert all(one.classes == ("NORMAL", "PNEUMONIA") and one.logits[0] == 0 for one in diagnoses)
    assert all(one.seconds > 0 and one.bytes > 0 for one in diagnoses)


def test_no_images_no_request(cluster):
    assert diagnose(images(0), cluster.public) == []


def test_several_classes_and_coarse_answers(tmp_path):
    made = Cluster.make(tmp_path, ("a", "b", "c", "d"), coarse=True)
    try:
        made.start()
        batch = images(5)
        diagnoses = diagnose(batch, made.public)
        compare(made.model, batch, diagnoses)
        assert all((value * 256).is_integer() for one in diagnoses for value in one.logits)
    finally:
        made.stop()


def test_images_of_another_shape_are_refused_before_anything_is_sent(cluster):
    before = used_records(cluster.folder / "A")
    for wrong in (images(1)[:, :, :-1], images(1)[0], images(1) * math.nan):
        with pytest.raises(InputError, match="This model takes"):
            diagnose(wrong, cluster.public)
    assert used_records(cluster.folder / "A") == before


def test_the_command_reads_files_and_prints_probabilities(cluster, tmp_path, real_data):
    if real_data is None:
        draw(tmp_path / "drawn", 12)
        pictures = sorted((tmp_path / "drawn").rglob("*.*"))
        pictures = [path for path in pictures if path.suffix in (".png", ".jpg", ".jpeg", ".dcm")][:3]
    else:
        pictures = sorted((real_data / "chest" / "test").rglob("*.jpeg"))[::60]
    public = cluster.folder / "files" / "public.json"
    printed = run_primum("diagnose", *pictures, "--deployment", public, "--json")
    assert printed.returncode == 0, printed.stderr
    rows = json.loads(printed.stdout)
    for path, row in zip(pictures, rows, strict=True):
        pixels = read_image(path, Preparation.from_card(cluster.model.card.preparation)).pixels
        plain = cluster.model.logits(torch.from_numpy(pixels)[None])[0, 1].item()
        assert row["image"] == str(path)
        assert row["logits"]["PNEUMONIA"] == pytest.approx(plain, abs=0.01)
        assert sum(row["probabilities"].values()) == pytest.approx(1)
    table = run_primum("diagnose", pictures[0], "--deployment", public)
    assert table.returncode == 0 and "PNEUMONIA" in table.stdout and "%" in table.stdout


def test_a_file_that_is_no_image_is_named_and_nothing_is_sent(cluster, tmp_path):
    good = tmp_path / "good.png"
    Pillow.fromarray((images(1)[0, 0] * 255).to(torch.uint8).numpy()).save(good)
    (tmp_path / "notes.txt").write_text("hello")
    before = used_records(cluster.folder / "A")
    public = cluster.folder / "files" / "public.json"
    printed = run_primum("diagnose", good, tmp_path / "notes.txt", "--deployment", public)
    assert printed.returncode == 2 and "notes.txt" in printed.stderr and "Traceback" not in printed.stderr
    assert used_records(cluster.folder / "A") == before


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"patient{place}.png" for place in range(3)]
    for path, image in zip(paths, images(3), strict=True):
        Pillow.fromarray((image[0] * 255).to(torch.uint8).numpy()).save(path)
    return paths


def test_requests_and_answers_travel_as_files(cluster, pictures, tmp_path):
    """Made where the image is, carried by somebody without the key, opened where the image is."""
    public = cluster.folder / "files" / "public.json"
    home, bag = tmp_path / "home", tmp_path / "bag"
    assert run_primum("diagnose", *pictures, "--deployment", public, "--save-request", home).returncode == 0
    assert home.stat().st_mode & 0o777 == 0o700 and (home / "reply.key").stat().st_mode & 0o777 == 0o600
    bag.mkdir()
    for name in ("request-a.json", "request-b.json"):
        (bag / name).write_bytes((home / name).read_bytes())
    carried = run_primum("diagnose", "--deployment", public, "--carry", bag)
    assert carried.returncode == 0, carried.stderr
    for name in ("answer-a.json", "answer-b.json"):
        (home / name).write_bytes((bag / name).read_bytes())
    opened = run_primum("diagnose", "--deployment", public, "--from-answers", home, "--json")
    assert opened.returncode == 0, opened.stderr
    names, diagnoses = open_saved(home, cluster.public)
    assert names == tuple(map(str, pictures))
    preparation = Preparation.from_card(cluster.model.card.preparation)
    compare(
        cluster.model, torch.stack([torch.from_numpy(read_image(p, preparation).pixels) for p in pictures]), diagnoses
    )

    again = run_primum("diagnose", "--deployment", public, "--carry", bag)
    assert again.returncode == Refused.exit_code and "sent before" in again.stderr
    without_key = run_primum("diagnose", "--deployment", public, "--from-answers", bag)
    assert without_key.returncode == InputError.exit_code and "reply.key" in without_key.stderr


def test_an_answer_that_a_carrier_altered_or_swapped_is_refused(cluster, pictures, tmp_path):
    from primum.diagnosis.client import carry

    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        save_requests(pictures[:1], cluster.public, folder)
        carry(folder, cluster.public)
    (folders[0] / "answer-b.json").write_bytes((folders[1] / "answer-b.json").read_bytes())
    with pytest.raises(PeerError, match="another request"):
        open_saved(folders[0], cluster.public)
    text = (folders[1] / "answer-a.json").read_text()
    place = text.index('"box": "') + 1600
    (folders[1] / "answer-a.json").write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
    with pytest.raises(PeerError, match="server A"):
        open_saved(folders[1], cluster.public)


def test_a_folder_holds_one_request(cluster, pictures, tmp_path):
    save_requests(pictures, cluster.public, tmp_path / "one")
    with pytest.raises(InputError, match="already holds"):
        save_requests(pictures, cluster.public, tmp_path / "one")
    with pytest.raises(InputError, match="1 to 64"):
        save_requests(pictures * 22, cluster.public, tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_diagnose_works_where_an_event_loop_is_running(cluster):
    """A notebook has one."""
    import asyncio

    async def cell():
        return diagnose(images(1), cluster.public)

    assert len(asyncio.run(cell())) == 1


def test_a_diagnosis_prints_no_probability(cluster):
    (one,) = diagnose(images(1), cluster.public)
    assert "probabilities" not in repr(one) and "logits" not in repr(one)


@pytest.mark.parametrize("arguments", [[], ["x.png", "--carry", "d"], ["--carry", "d", "--from-answers", "d"]])
def test_unclear_arguments_are_refused(cluster, arguments):
    printed = run_primum("diagnose", "--deployment", cluster.folder / "files" / "public.json", *arguments)
    assert printed.returncode == 2 and "Traceback" not in printed.stderr
