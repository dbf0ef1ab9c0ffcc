"""An encrypted mask window by window: that in clear, on the file's own pixels, and no count tells the size."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image as Pillow
from tests.diagnosis.networks import deployed
from tests.imaging.result_samples import by_source, radiograph, rotation, series

from primum.diagnosis.client import REQUEST_NAMES, carry
from primum.diagnosis.data_owner import ImagePath, diagnose_sources, open_saved, save_requests
from primum.diagnosis.deployable import deployable_model
from primum.diagnosis.diagnosis import Diagnosis, areas
from primum.diagnosis.files import read_message
from primum.diagnosis.messages import Request
from primum.diagnosis.results import write_results
from primum.diagnosis.sources import Source, open_source, restored
from primum.errors import InputError, ModelError
from primum.imaging import Preparation, read_segmentation
from primum.imaging.cover import Cover
from primum.imaging.results_mask import on_source_grid
from primum.imaging.windows import DEVIATIONS
from primum.models.card import Card, TrainedModel, load_model, save_model
from primum.models.feature_map import PixelsCard
from primum.models.learned import UNetSettings, first_weights
from primum.tasks.windows import blended_mask

SIZE, CLASSES = 16, ("background", "liver", "spleen")


def card(**changes: object) -> Card:
    made = {
        "task": "segmentation",
        "classes": CLASSES,
        "front_end": PixelsCard(size=SIZE, deviations=DEVIATIONS),
        "learned": UNetSettings(widths=(4, 8)),
        "preparation": Preparation(SIZE, fit="windows").to_card(),
        "privacy": {"epsilon": None},
        "trained": {"study": "organs", "version": "0.9"},
    }
    return Card(**{**made, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A small U-Net that draws something everywhere: random weights, the last layer too."""
    about = card()
    module = about.learned.module((1, SIZE, SIZE), len(CLASSES))
    first_weights(module, "masks of the tests")
    torch.nn.init.normal_(module.head.weight, generator=torch.Generator().manual_seed(3))  # type: ignore[union-attr, arg-type]
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, module.state_dict(), about)
    return load_model(folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A picture of 24 x 40 pixels (8 windows with the blank ones), and a volume of 2 slices of 20 x 18 (8 windows)."""
    folder = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(1)
    Pillow.fromarray(generator.integers(0, 255, (24, 40)).astype(np.uint8)).save(folder / "picture.png")
    values = generator.normal(100, 30, (18, 20, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 3.0, 1.0])), folder / "volume.nii.gz")
    return [folder / "picture.png", folder / "volume.nii.gz"]


def in_clear(model: TrainedModel, source: Source) -> np.ndarray:
    assert source.cover is not None
    count = len(source.cover)
    logits = model.logits(source.images[: count * (source.slices or 1)])
    drawn = [blended_mask(part, source.cover).numpy() for part in logits.split(count)]
    return np.stack(drawn) if source.slices else drawn[0]


def test_an_encrypted_mask_of_windows_is_the_one_in_clear(
    tmp_path_factory: pytest.TempPathFactory, model: TrainedModel, sources: list[Path], tmp_path: Path
) -> None:
    with deployed(tmp_path_factory.mktemp("windows"), deployable_model(model)) as cluster:
        opened = ImagePath.of(cluster.public).read(sources)
        assert [len(source.images) for source in opened] == [8, 8]
        for source, found in zip(opened, diagnose_sources(opened, cluster.public), strict=True):
            expected = in_clear(model, source)
            assert found.mask is not None and found.mask.shape == expected.shape
            assert (found.mask != expected).mean() <= 0.005
            assert found.window is None and found.probabilities[1] == pytest.approx((found.mask == 1).mean())
            back = restored(source, found.mask, Preparation.from_card(cluster.public.card["preparation"]))
            assert (back == (found.mask)).all()  # no spacing: the grid of the file
            assert {path.suffix for path in write_results(source, found, cluster.public.card, tmp_path / "out")} <= {
                ".png", ".gz",
            }  # fmt: skip
        assert nibabel.load(tmp_path / "out" / "volume.mask.nii.gz").shape == (18, 20, 2)
        with Pillow.open(tmp_path / "out" / "picture.mask.png") as written:
            assert written.size == (40, 24)
        save_requests(sources, cluster.public, tmp_path / "home")
        assert read_message(tmp_path / "home" / REQUEST_NAMES["A"], Request, 1 << 24).images == 16
        carry(tmp_path / "home", cluster.public)
        _, again = open_saved(tmp_path / "home", cluster.public)
        assert all(
            (one.mask != in_clear(model, source)).mean() <= 0.005 for one, source in zip(again, opened, strict=True)
        )
        Pillow.fromarray(np.random.default_rng(2).integers(0, 255, (120, 120)).astype(np.uint8)).save(
            tmp_path / "large.png"
        )
        with pytest.raises(InputError, match=r"large\.png takes 128 windows of 16 pixels .* and 64 may be asked for"):
            ImagePath.of(cluster.public).read([tmp_path / "large.png"])


@pytest.mark.parametrize("spacing", [None, 1.5])
def test_on_dicom_files_the_mask_is_read_back_and_says_which_model_drew_it(
    model: TrainedModel, tmp_path: Path, spacing: float | None
) -> None:
    """A radiograph and an oblique series: DICOM SEG holds what was blended, on the files' own pixels; also the overlay
    says the version and the digest of the card."""
    preparation = replace(Preparation(SIZE, fit="windows"), spacing=spacing)
    told = json.loads(model.card.model_copy(update={"preparation": preparation.to_card()}).model_dump_json())
    slices, _ = series(tmp_path / "ct", rotation(0.4, -0.7, 1.1), slices=3, rows=24, columns=20)
    radiograph(tmp_path / "chest.dcm", PixelSpacing=[0.75, 0.75])
    for path, files in ((tmp_path / "chest.dcm", [tmp_path / "chest.dcm"]), (tmp_path / "ct", slices)):
        source = open_source(path, preparation, masks=True)
        drawn = in_clear(model, source)
        found = Diagnosis(CLASSES, areas(drawn, 3), (), 1, 0.1, 10, "cd" * 32, drawn)
        write_results(source, found, told, tmp_path / "out")
        seg = pydicom.dcmread(tmp_path / "out" / f"{path.stem}.seg.dcm")
        mask = restored(source, drawn, preparation)
        assert (spacing is None) == (drawn.shape == mask.shape)
        back = by_source(tmp_path / "out" / f"{path.stem}.seg.dcm")
        wanted = mask[None] if source.volume is None else on_source_grid(files, source.volume.affine, mask)
        assert len(np.unique(wanted)) == 3, "there is something to be read back"
        for file, part in zip(files, wanted, strict=True):
            np.testing.assert_array_equal(back[str(pydicom.dcmread(file).SOPInstanceUID)], part)
        made_by = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
        assert (made_by.AlgorithmName, made_by.AlgorithmVersion) == ("organs", "0.9")
        assert seg.DeviceSerialNumber == model.card.weights_sha256
        assert model.card.weights_sha256 in made_by.AlgorithmParameters
        if source.volume is not None:
            np.testing.assert_array_equal(
                read_segmentation(tmp_path / "out" / "ct.seg.dcm", source.volume, CLASSES), mask
            )
    overlay = pydicom.dcmread(tmp_path / "out" / "chest.overlay.dcm")
    assert overlay.DeviceSerialNumber == model.card.weights_sha256 and "0.9" in overlay.SoftwareVersions


def test_a_mask_of_other_millimetres_comes_back_to_the_file(tmp_path: Path) -> None:
    """Sampled to 2 mm and cut; what is drawn there lies where the file has it."""
    y, x = np.mgrid[:60, :44]
    disc = (y - 30) ** 2 + (x - 18) ** 2 < 12**2
    volume = np.repeat((100.0 * disc.T + np.arange(44)[:, None])[..., None], 3, axis=2).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, -1.0, 4.0, 1.0])), tmp_path / "v.nii.gz")
    cut = replace(Preparation(SIZE, fit="windows"), spacing=2.0)
    source = open_source(tmp_path / "v.nii.gz", cut, masks=True)
    assert source.cover == Cover((30, 22), (SIZE, SIZE)) and source.slices == 3 and len(source.images) == 32
    shown = source.images[:18, 0].numpy().reshape(3, 6, SIZE, SIZE)
    drawn = np.stack([source.cover.blended(each[..., None])[..., 0] > 0.55 for each in shown]).astype(np.uint8)
    back = restored(source, drawn, cut)
    assert back.shape == (3, 60, 44)
    assert 2 * (back[1] & disc).sum() / (back[1].sum() + disc.sum()) > 0.95


def test_a_card_whose_pixels_are_not_those_of_windows_is_refused(tmp_path: Path, model: TrainedModel) -> None:
    for changes in ({"front_end": PixelsCard(size=SIZE)}, {"preparation": Preparation(SIZE).to_card()}):
        with pytest.raises(ValueError, match="windows go with pixels that were standardised"):
            card(**changes)
    with pytest.raises(ModelError, match="deviations"):
        PixelsCard(size=SIZE, deviations=7.0).feature_map()
