"""Imaging: files -> Image -> Dataset, by patient.

In: a hospital's folder (one folder per class, or labels.csv) of DICOM, JPEG and PNG in any mixture. Out: `Intake`, with a
`Dataset` of prepared images, labels and patient pseudonyms, and a `Problem` for every file that was set aside.
Read `folder.py` first, then `prepare.py` (how a picture becomes pixels, the same for training and diagnosis),
`dicom.py` and `photo.py` (one reader per format). Sources: DICOM PS3.3, PS3.5; pydicom; Pillow.
"""

from primum.imaging.dataset import Dataset, assert_disjoint
from primum.imaging.folder import FEWEST_PATIENTS, Intake, read_folder
from primum.imaging.image import Image, Picture, Problem, Provenance
from primum.imaging.medmnist import read_medmnist
from primum.imaging.patient import CHEST_XRAY_PATIENT, PatientSource, pseudonym
from primum.imaging.prepare import Preparation, read_image
from primum.imaging.split import deal, split_patients

__all__ = [
    "CHEST_XRAY_PATIENT",
    "FEWEST_PATIENTS",
    "Dataset",
    "Image",
    "Intake",
    "PatientSource",
    "Picture",
    "Preparation",
    "Problem",
    "Provenance",
    "assert_disjoint",
    "deal",
    "pseudonym",
    "read_folder",
    "read_image",
    "read_medmnist",
    "split_patients",
]
