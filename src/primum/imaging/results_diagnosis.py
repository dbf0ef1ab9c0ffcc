"""A diagnosis as the clinic's systems read it: DICOM Structured Report, and FHIR DiagnosticReport.

Both say what a model computed and nothing more: the observer is a device, nobody has verified it, it is preliminary.
Sources: DICOM PS3.16 TID 1500, TID 1501, TID 1004; HL7 FHIR R4 (4.0.1), DiagnosticReport, Observation, Device.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import highdicom as hd
from pydicom import Dataset
from pydicom.sr.codedict import codes

from primum import __version__
from primum.errors import DataError
from primum.imaging.results_codes import OWN_CODES, coding_schemes
from primum.imaging.results_files import (
    MANUFACTURER,
    NOT_FOR_DIAGNOSIS,
    UTF8,
    Algorithm,
    check_classes,
    encode,
    new_uid,
    read_headers,
    refers_to,
    refuse_existing,
    write_new,
)
from primum.study import Labels

_SERIES: Final = 9003
_SUM: Final = 1e-3
"""Probabilities may sum to 1 with this error: they were rounded on their way."""
_CALLED: Final = 0.5
_UCUM: Final = "http://unitsofmeasure.org"
_LOINC: Final = {"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}


def write_structured_report(
    source_files: Sequence[Path],
    probabilities: Mapping[str, float],
    algorithm: Algorithm,
    out: Path,
    *,
    labels: Labels = "one",
) -> None:
    """Write class probabilities as a DICOM Comprehensive SR (TID 1500) about `source_files`.

    One measurement group for each class: the class is the finding, its probability a NUM item without unit; each refers
    to the model and to the first of the images, all of them stand in the evidence. Of ordered classes (`labels`) the group
    of the grade that is called says so. Completion PARTIAL, UNVERIFIED, PRELIMINARY. Raises DataError where the probabilities are none, a file is no DICOM image, or `out` exists.
    """
    refuse_existing(out)
    _check(probabilities, labels)
    headers = read_headers(source_files)
    with refers_to(source_files[0]):
        report = hd.sr.ComprehensiveSR(
            evidence=headers,
            content=_content(headers[0], probabilities, algorithm, labels)[0],
            series_instance_uid=new_uid(),
            series_number=_SERIES,
            sop_instance_uid=new_uid(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name,
            software_versions=algorithm.software,
            device_serial_number=algorithm.digest,
            series_description=NOT_FOR_DIAGNOSIS,
            is_complete=False,
            is_final=False,
            is_verified=False,
            specific_character_set=UTF8,
            coding_schemes=coding_schemes(),
        )
        report.CompletionFlagDescription = NOT_FOR_DIAGNOSIS
        data = encode(report)
    write_new(out, data)


def _check(probabilities: Mapping[str, float], labels: Labels) -> None:
    """Of several classes each is by itself, and they have no sum."""
    check_classes(tuple(probabilities))
    values = list(probabilities.values())
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        raise DataError("the classes' probabilities are not between 0 and 1", "Give them as computed.")
    if labels != "several" and abs(sum(values) - 1) > _SUM:
        raise DataError("the classes' probabilities are not between 0 and 1 with the sum 1", "Give them as computed.")


def _grade(probabilities: Mapping[str, float]) -> str:
    """Of ordered classes the highest that is reached with a probability above 1/2."""
    names, values = list(probabilities), list(probabilities.values())
    reached = [place for place in range(1, len(names)) if sum(values[place:]) > _CALLED]
    return names[max(reached, default=0)]


def _content(
    header: Dataset, probabilities: Mapping[str, float], algorithm: Algorithm, labels: Labels
) -> hd.sr.MeasurementReport:
    """TID 1500, Measurement Report: the device that observed, and a group for each class."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=algorithm.device_uid,
        name="Primum",
        manufacturer_name=MANUFACTURER,
        model_name=algorithm.name,
        serial_number=algorithm.digest,
    )
    grade = _grade(probabilities) if labels == "ordered" else None
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            _group(header, place, name, value, algorithm, called=name == grade)
            for place, (name, value) in enumerate(probabilities.items(), 1)
        ],
    )


def _group(
    header: Dataset, place: int, name: str, value: float, algorithm: Algorithm, called: bool
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501: finding, probability (DCM 122157), algorithm, image; and that it is the grade, where it is."""
    kind = hd.sr.CodedConcept(f"CLASS-{place}", OWN_CODES, name)
    graded = [hd.sr.QualitativeEvaluation(hd.sr.CodedConcept("GRADE", OWN_CODES, "Grade"), kind)] if called else None
    made_by = hd.sr.AlgorithmIdentification(
        name=algorithm.name, version=algorithm.version, parameters=[f"model sha256={algorithm.digest}"]
    )
    measured = hd.sr.Measurement(
        name=codes.DCM.Probability, value=_decimal(value), unit=codes.UCUM.NoUnits, algorithm_id=made_by
    )
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=new_uid(), identifier=name),
        finding_type=kind,
        qualitative_evaluations=graded,
        measurements=[measured],
        source_images=[hd.sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
    )


def _decimal(value: float) -> float:
    """Six places: more than a model knows, and short enough for DICOM's DS (16 characters)."""
    return round(value, 6)


def diagnosis_json(
    probabilities: Mapping[str, float],
    algorithm: Algorithm,
    *,
    issued: datetime,
    patient: str | None = None,
    study: str | None = None,
    labels: Labels = "one",
) -> str:
    """A FHIR R4 DiagnosticReport as JSON: status "preliminary", one contained Observation for each class.

    The conclusion names the most probable class; by `labels` all classes above 1/2, or the grade.

    `issued`: with a time zone. `patient`: PatientID, a logical reference; `study`: StudyInstanceUID. Nothing about the
    patient stands in it but what these two give. Raises DataError where the probabilities are none.
    """
    _check(probabilities, labels)
    if issued.tzinfo is None:
        raise DataError("the time of a diagnosis has no time zone", "Give it with one (FHIR's `instant`).")
    about = {"subject": {"type": "Patient", "identifier": {"value": patient}}} if patient else {}
    report = {
        "resourceType": "DiagnosticReport",
        "contained": [
            _device(algorithm),
            *(_observation(place, name, value, about) for place, (name, value) in enumerate(probabilities.items(), 1)),
        ],
        "status": "preliminary",
        "code": {"coding": [_LOINC], "text": "Class probabilities computed by a model"},
        **about,
        **({"imagingStudy": [{"identifier": _dicom_uid(study)}]} if study else {}),
        "issued": issued.isoformat(timespec="milliseconds"),
        "result": [{"reference": f"#class-{place}"} for place in range(1, len(probabilities) + 1)],
        "conclusion": f"{NOT_FOR_DIAGNOSIS}. {_conclusion(probabilities, labels)}.",
    }
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _conclusion(probabilities: Mapping[str, float], labels: Labels) -> str:
    if labels == "several":
        called = [f"{name} ({value:.3f})" for name, value in probabilities.items() if value > _CALLED]
        return f"Classes with a probability above 1/2: {', '.join(called) or 'none'}"
    if labels == "ordered":
        return f"Grade: {_grade(probabilities)}"
    best = max(probabilities, key=lambda name: probabilities[name])
    return f"Most probable class: {best} ({probabilities[best]:.3f})"


def write_diagnosis_json(
    probabilities: Mapping[str, float],
    algorithm: Algorithm,
    out: Path,
    *,
    issued: datetime,
    patient: str | None = None,
    study: str | None = None,
    labels: Labels = "one",
) -> None:
    """Write `diagnosis_json` to a new file."""
    refuse_existing(out)
    told = diagnosis_json(probabilities, algorithm, issued=issued, patient=patient, study=study, labels=labels)
    write_new(out, told.encode())


def _device(algorithm: Algorithm) -> dict[str, Any]:
    return {
        "resourceType": "Device",
        "id": "model",
        "identifier": [{"system": "urn:ietf:rfc:3986", "value": f"urn:oid:{algorithm.device_uid}"}],
        "manufacturer": MANUFACTURER,
        "serialNumber": algorithm.digest,
        "deviceName": [{"name": algorithm.name, "type": "model-name"}],
        "version": [{"value": algorithm.version}, {"type": {"text": "Primum"}, "value": __version__}],
    }


def _observation(place: int, name: str, value: float, about: Mapping[str, Any]) -> dict[str, Any]:
    probability = {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "122157", "display": "Probability"}
    return {
        "resourceType": "Observation",
        "id": f"class-{place}",
        "status": "preliminary",
        "code": {"coding": [probability], "text": f"Probability of {name}"},
        **about,
        "valueQuantity": {"value": _decimal(value), "system": _UCUM, "code": "1"},
        "device": {"reference": "#model"},
    }


def _dicom_uid(uid: str) -> dict[str, str]:
    return {"system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}
