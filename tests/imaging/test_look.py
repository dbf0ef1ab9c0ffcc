"""The first look at a folder: colour is offered, whatever a study asks later."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from tests.federation.playing import make_study, write_images
from tests.imaging.samples import KEY

from primum.doctor.machine import examine_machine
from primum.errors import DataError
from primum.federation.node import Images, NodeSettings
from primum.imaging import Intake, PatientSource, Preparation, look, read_folder
from primum.study import Images as Prepared
from primum.tasks.plan import Plan

PATTERN = r"^(p\d+)_"


def _dyed(folder: Path, most: int = 99) -> Path:
    """The tests' pictures, so many of them without their green."""
    for path in sorted(write_images(folder, 0).rglob("*.png"))[:most]:
        pixels = np.stack([np.asarray(Pillow.open(path))] * 3, axis=-1)
        pixels[..., 1] = 0
        Pillow.fromarray(pixels).save(path)
    return folder


def _read(folder: Path, preparation: Preparation) -> Intake:
    return read_folder(folder, preparation=preparation, patients=PatientSource(PATTERN), pseudonym_key=KEY)


@pytest.mark.parametrize("dyed", [99, 1])
def test_a_folder_with_colour_is_offered_whole(tmp_path: Path, dyed: int) -> None:
    folder = _dyed(tmp_path, dyed)
    offer = look(partial(_read, folder))
    assert len(offer.dataset) == 12 and not offer.problems and offer.dataset.images.shape[1] == 3
    counted = "1 image is in colour" if dyed == 1 else "12 images are in colour"
    assert offer.notices[-1].startswith(f"{counted}: only a study with channels = 3")


def test_a_grey_folder_is_looked_at_in_grey_and_another_fault_is_told(tmp_path: Path) -> None:
    assert look(partial(_read, write_images(tmp_path / "grey", 0))).dataset.images.shape[1] == 1
    with pytest.raises(DataError, match="of 4 patients"):
        look(partial(_read, write_images(tmp_path / "few", 0, 4)))


def test_a_node_offers_colour_and_a_study_of_three_channels_learns_from_it(tmp_path: Path) -> None:
    images = Images(_dyed(tmp_path / "data"), NodeSettings(patient=PATTERN), KEY)
    assert images.look().dataset.patient_count == 12
    study = make_study([b"\1" * 32]).model_copy(update={"images": Prepared(size=16, channels=3)})
    cohorts = images.cohorts(Plan(study), 0.25)
    assert len(cohorts.training.labels) + len(cohorts.evaluation.labels) == 12
    seen = {
        finding.check: finding.seen for finding in examine_machine(tmp_path, "node", tmp_path / "data", images.settings)
    }
    assert seen["images"] == "12 images of 12 patients"
