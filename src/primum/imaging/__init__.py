"""Imaging: files -> Image -> Dataset, by patient.

In: a hospital's folder, or an archive of it, of DICOM, JPEG, PNG, TIFF, BMP and WebP in any mixture (one folder per
class, or labels.csv); or of images with masks, pictures or volumes (DICOM series and SEG, NIfTI, NRRD). Out: `Intake`,
with a `Dataset` of prepared images, labels or masks and patient pseudonyms, and a `Problem` for every file that was set
aside. Read `folder.py` first, then `prepare.py` (how a picture becomes pixels, the same for training and diagnosis).

| what | where |
|---|---|
| one reader per format of pictures | dicom.py on stored.py and decoder.py, photo.py; reader.py chooses |
| volumes: LPS coordinates, one orientation | volume.py; series.py, nifti.py, nrrd.py read them, slices.py and patches.py prepare them |
| masks | cases.py finds them, masked.py reads the folder; mask_picture.py, segmentation_object.py read one |
| grey levels and places | intensity.py, geometry.py; windows.py on cover.py where a picture keeps its resolution |
| decoded once | reading.py, manifest.py, cache.py |
| from a PACS, de-identified | receive.py, dicomweb.py; inbox.py, deidentify.py on confidentiality.py |
| public data sets | named.py, medmnist.py, idx.py |
| what the clinic gets | restore.py, results_mask.py, results_overlay.py, results_diagnosis.py |
| who and which file | patient.py, listing.py, archive.py, split.py |
| before any study asks | look.py, file_spacing.py |

Sources: DICOM PS3.3, PS3.5; NIfTI-1 and -2; NRRD; pydicom; nibabel; Pillow.
"""

from primum.imaging.cases import holds_masks
from primum.imaging.dataset import Dataset, assert_disjoint
from primum.imaging.folder import FEWEST_PATIENTS, Intake, read_folder
from primum.imaging.image import FolderError, Image, Picture, Problem, Provenance
from primum.imaging.look import look
from primum.imaging.masked import read_masked_folder, reader_of, require_task
from primum.imaging.medmnist import read_medmnist
from primum.imaging.patient import CHEST_XRAY_PATIENT, PatientSource, pseudonym
from primum.imaging.prepare import Preparation, read_image
from primum.imaging.segmentation_object import read_segmentation
from primum.imaging.series import read_volume
from primum.imaging.slices import read_slices
from primum.imaging.split import deal, split_patients
from primum.imaging.volume import Volume

__all__ = [
    "CHEST_XRAY_PATIENT",
    "FEWEST_PATIENTS",
    "Dataset",
    "FolderError",
    "Image",
    "Intake",
    "PatientSource",
    "Picture",
    "Preparation",
    "Problem",
    "Provenance",
    "Volume",
    "assert_disjoint",
    "deal",
    "holds_masks",
    "look",
    "pseudonym",
    "read_folder",
    "read_image",
    "read_masked_folder",
    "read_medmnist",
    "read_segmentation",
    "read_slices",
    "read_volume",
    "reader_of",
    "require_task",
    "split_patients",
]
