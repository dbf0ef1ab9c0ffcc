"""Diagnoses as files that a clinic's systems read: DICOM SEG, secondary capture and SR, NIfTI, PNG, FHIR JSON."""

import datetime
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from primum.diagnosis.diagnosis import Diagnosis
from primum.diagnosis.sources import Mask, Source, restored
from primum.errors import InputError
from primum.imaging import Picture, Preparation
from primum.imaging.listing import walk
from primum.imaging.reader import decode
from primum.imaging.results_diagnosis import write_diagnosis_json, write_structured_report
from primum.imaging.results_files import Algorithm, named_by, refuse_existing, write_new
from primum.imaging.results_mask import on_source_grid, write_nifti_mask, write_segmentation
from primum.imaging.results_overlay import write_overlay_capture, write_overlay_png


def refuse_existing_results(sources: Sequence[Source], folder: Path) -> None:
    """InputError where `folder` holds a result of one of these images, or two of them would have the same names: said
    before a diagnosis is asked for."""
    named: dict[Path, Path] = {}
    for source in sources:
        stem = _stem(source, folder)
        other = named.setdefault(stem, source.path)
        if other != source.path:
            raise InputError(
                f"{other} and {source.path} would be written under the same names.", "Diagnose them one after another."
            )
        found = next((path for path in sorted(folder.glob("*")) if path.name.startswith(f"{stem.name}.")), None)
        if found is not None:
            raise InputError(f"{found} exists.", "Name another folder with --out, or move it away.")


def write_results(source: Source, diagnosis: Diagnosis, card: Mapping[str, Any], folder: Path) -> list[Path]:
    """The files of one diagnosis in `folder` (made if missing), named after the image; which they are.

    A mask: NAME.overlay.png, and on the file's own pixels NAME.seg.dcm and NAME.overlay.dcm for DICOM, NAME.mask.nii.gz
    for a volume, NAME.mask.png (a class a pixel) for other pictures. A class: NAME.report.json (FHIR), and for DICOM
    NAME.report.dcm (SR). They are as readable as the image: mode 0600. Raises InputError or DataError where one exists.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}.", "Name another folder.") from None
    algorithm = _algorithm(diagnosis, card)
    stem = _stem(source, folder)
    if diagnosis.mask is None:
        return _write_class(source, diagnosis, algorithm, stem)
    preparation = Preparation.from_card(card["preparation"])
    mask = restored(source, diagnosis.mask, preparation)
    if source.volume is None:
        return _write_picture(source, mask, diagnosis, algorithm, stem)
    return _write_volume(source, mask, diagnosis, algorithm, stem)


def _stem(source: Source, folder: Path) -> Path:
    name = source.path.name.removesuffix(".gz")
    return folder / (name.rsplit(".", 1)[0] or name)


def _algorithm(diagnosis: Diagnosis, card: Mapping[str, Any]) -> Algorithm:
    """As the card says it, so that a file can be traced to a run; a network from elsewhere has the deployment's digest."""
    trained = card.get("trained") or {}
    name = str(trained.get("study") or card.get("about") or "model")[:64] or "model"
    version = str(trained.get("version") or card.get("version") or "1")[:64]
    return Algorithm(name, version, card.get("weights_sha256") or diagnosis.model)


def _write_class(source: Source, diagnosis: Diagnosis, algorithm: Algorithm, stem: Path) -> list[Path]:
    chances = dict(zip(diagnosis.classes, diagnosis.probabilities, strict=True))
    made = [Path(f"{stem}.report.json")]
    issued = datetime.datetime.now(datetime.UTC)
    clinical = decode(source.path).format == "DICOM"
    known = named_by(source.path) if clinical else {}
    write_diagnosis_json(chances, algorithm, made[0], issued=issued, labels=diagnosis.labels, **known)
    if clinical:
        made.append(Path(f"{stem}.report.dcm"))
        write_structured_report([source.path], chances, algorithm, made[1], labels=diagnosis.labels)
    return made


def _write_picture(source: Source, mask: Mask, diagnosis: Diagnosis, algorithm: Algorithm, stem: Path) -> list[Path]:
    picture, classes = decode(source.path), diagnosis.classes
    made = [Path(f"{stem}.overlay.png")]
    write_overlay_png(picture, mask, classes, algorithm, made[0])
    if picture.format == "DICOM":
        made += [Path(f"{stem}.seg.dcm"), Path(f"{stem}.overlay.dcm")]
        write_segmentation([source.path], mask, classes, algorithm, made[1])
        write_overlay_capture(source.path, mask, classes, algorithm, made[2])
    else:
        made.append(Path(f"{stem}.mask.png"))
        _write_png(mask, made[1])
    return made


def _write_volume(source: Source, mask: Mask, diagnosis: Diagnosis, algorithm: Algorithm, stem: Path) -> list[Path]:
    assert source.volume is not None
    made = [Path(f"{stem}.overlay.png"), Path(f"{stem}.mask.nii.gz")]
    largest = int((mask > 0).sum(axis=(1, 2)).argmax())
    write_overlay_png(_slice(source, largest), mask[largest], diagnosis.classes, algorithm, made[0])
    same = source.path if source.volume.format == "NIfTI" else None
    write_nifti_mask(source.volume.affine, mask, made[1], like=same)
    if source.volume.format == "DICOM series":
        files = [source.path / name for name in walk(source.path)] if source.path.is_dir() else [source.path]
        made.append(Path(f"{stem}.seg.dcm"))
        placed = on_source_grid(files, source.volume.affine, mask)
        write_segmentation(files, placed, diagnosis.classes, algorithm, made[2])
    return made


def _slice(source: Source, number: int) -> Picture:
    """An axial slice of a volume, its grey levels between the volume's extremes."""
    assert source.volume is not None
    values = source.volume.values
    low, high = np.percentile(values, (0.5, 99.5))
    shown = np.clip((values[number] - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return Picture(1 - shown[None] if source.volume.inverted else shown[None], source.volume.format)


def _write_png(mask: Mask, out: Path) -> None:
    refuse_existing(out)
    buffer = BytesIO()
    Pillow.fromarray(mask).save(buffer, "PNG")
    write_new(out, buffer.getvalue())
