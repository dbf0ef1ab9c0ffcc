"""Masks by three real processes: within half a percent of the pixels of those in clear, and as the clinic's files."""

import copy
import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image as Pillow
from pydicom.data import get_testdata_file
from tests.diagnosis.conftest import run_primum
from tests.diagnosis.networks import deployed

from primum.diagnosis.data_owner import ImagePath, diagnose_sources
from primum.diagnosis.deployable import deployable_model
from primum.diagnosis.sources import open_source
from primum.errors import DataError
from primum.imaging import Preparation
from primum.models.card import Card, TrainedModel, load_model, save_model
from primum.models.feature_map import PixelsCard
from primum.models.learned import UNetSettings, first_weights

SIZE, CLASSES = 16, ("background", "liver", "spleen")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> TrainedModel:
    """A small U-Net that draws something everywhere: random weights, the last layer too."""
    settings = UNetSettings(widths=(4, 8))
    module = settings.module((1, SIZE, SIZE), len(CLASSES))
    first_weights(module, "masks of the tests")
    torch.nn.init.normal_(module.head.weight, generator=torch.Generator().manual_seed(3))
    folder = tmp_path_factory.mktemp("model")
    card = Card(
        task="segmentation",
        classes=CLASSES,
        front_end=PixelsCard(size=SIZE),
        learned=settings,
        preparation=Preparation(SIZE, fit="pad").to_card(),
        privacy={"epsilon": None},
        trained={"study": "organs"},
    )
    save_model(folder, module.state_dict(), card)
    return load_model(folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[Path]:
    """A picture of 24 x 40 pixels, a DICOM slice, and a volume of 5 slices."""
    folder = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(1)
    Pillow.fromarray(generator.integers(0, 255, (24, 40)).astype(np.uint8)).save(folder / "picture.png")
    dicom = get_testdata_file("CT_small.dcm")
    assert isinstance(dicom, str)
    values = generator.normal(100, 30, (20, 18, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "volume.nii.gz")
    return [folder / "picture.png", Path(dicom), folder / "volume.nii.gz"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, model):
    with deployed(tmp_path_factory.mktemp("masks"), deployable_model(model)) as made:
        yield made


def test_an_encrypted_mask_is_the_one_in_clear(cluster, model, sources):
    opened = ImagePath.of(cluster.public).read(sources)
    for source, found in zip(opened, diagnose_sources(opened, cluster.public), strict=True):
        expected = model.logits(source.images).argmax(1).numpy()
        assert found.mask.shape == (expected[0] if source.volume is None else expected).shape
        assert (found.mask != expected).mean() <= 0.005
        assert sum(found.probabilities) == pytest.approx(1)
        assert found.probabilities[1] == pytest.approx((found.mask == 1).mean())
        assert "mask" not in repr(found) and found.logits == ()


def test_the_command_writes_what_the_clinic_reads(cluster, sources, tmp_path):
    public, out = cluster.folder / "files" / "public.json", tmp_path / "out"
    done = run_primum("diagnose", *map(str, sources), "--deployment", str(public), "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told[0]["shares"]) == set(CLASSES) and "probabilities" not in told[0]
    assert sorted(path.name for path in out.iterdir()) == [
        "CT_small.overlay.dcm", "CT_small.overlay.png", "CT_small.seg.dcm",
        "picture.mask.png", "picture.overlay.png", "volume.mask.nii.gz", "volume.overlay.png",
    ]  # fmt: skip
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in out.iterdir())
    picture = np.asarray(Pillow.open(out / "picture.mask.png"))
    assert picture.shape == (24, 40) and picture.max() < len(CLASSES)
    volume = nibabel.load(out / "volume.mask.nii.gz")
    assert volume.shape == (20, 18, 5) and np.allclose(volume.affine, np.diag([2.0, 2.0, 3.0, 1.0]))
    found = pydicom.dcmread(out / "CT_small.seg.dcm")
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == list(CLASSES[1:])
    again = run_primum("diagnose", str(sources[0]), "--deployment", str(public), "--out", str(out))
    assert again.returncode == 2 and "exist" in again.stderr and "Traceback" not in again.stderr


def test_masks_of_a_volume_travel_as_files(cluster, sources, tmp_path):
    public, home = str(cluster.folder / "files" / "public.json"), str(tmp_path / "home")
    for arguments in ((str(sources[2]), "--save-request", home), ("--carry", home)):
        done = run_primum("diagnose", *arguments, "--deployment", public)
        assert done.returncode == 0, done.stderr
    done = run_primum("diagnose", "--from-answers", home, "--deployment", public, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"volume.mask.nii.gz", "volume.overlay.png"}


def test_a_volume_is_refused_where_classes_are_told(sources):
    with pytest.raises(DataError, match="is a volume"):
        open_source(sources[2], Preparation(SIZE), masks=False)


def test_a_network_whose_logits_grew_large_is_deployed(model):
    """Without privacy logits reach hundreds: what is allowed grows with them, and so does the lead that must hold."""
    grown = copy.deepcopy(model.module)
    with torch.no_grad():
        grown.head.weight.mul_(300)
    assert deployable_model(TrainedModel(model.card, model.front_end, grown)).program


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothere\.dcm does not exist"):
        open_source(tmp_path / "nothere.dcm", Preparation(SIZE), masks=True)
