"""node.toml: what a node remembers of the options it was started with."""

from pathlib import Path
from typing import Final

import tomli_w
from pydantic import BaseModel, ConfigDict

from primum.accelerator import Accelerator
from primum.disk import write
from primum.errors import InputError
from primum.federation.way import ENVIRONMENT, check_proxy
from primum.study import Labels, parse_toml, read_text

DIRECTLY: Final = "none"


class NodeSettings(BaseModel):
    """Where the patient of an image is named, when neither DICOM nor labels.csv says it (`patient`,
    `one_image_per_patient`); what the hospital's network puts before the coordinator (`proxy`, `authority` in PEM);
    where gradients are computed (`device`: cpu, cuda, cuda:1); how images are labelled where no study says it
    (`labels`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patient: str | None = None
    one_image_per_patient: bool = False
    proxy: str | None = None
    authority: str | None = None
    device: str = "cpu"
    labels: Labels | None = None

    @classmethod
    def read(cls, path: Path) -> "NodeSettings":
        """From `path`; the defaults where there is no such file."""
        if not path.exists():
            return cls()
        return parse_toml(cls, read_text(path), str(path))


def remember(
    path: Path,
    *,
    patient: str | None,
    single: bool,
    proxy: str | None,
    authority: Path | None,
    device: str | None = None,
    labels: Labels | None = None,
) -> None:
    """Keep what is given, for the next start too; what is None (`single`: each image is its own patient) stays as it was.

    Mode 0600: a proxy's password may stand in it. An error for a proxy, an authority or a device that cannot be used.
    """
    if not single and all(given is None for given in (patient, proxy, authority, device, labels)):
        return
    if device is not None:
        Accelerator.named(device)
    settings = NodeSettings.read(path)
    changes = {
        "patient": settings.patient if patient is None else patient,
        "one_image_per_patient": single or settings.one_image_per_patient,
        "proxy": chosen_proxy(proxy, settings),
        "device": settings.device if device is None else device,
        "labels": settings.labels if labels is None else labels,
        "authority": settings.authority if authority is None else read_authority(authority),
    }
    kept = settings.model_copy(update=changes).model_dump(exclude_none=True)
    write(path, tomli_w.dumps(kept, multiline_strings=True).encode(), private=True)


def chosen_proxy(given: str | None, settings: NodeSettings) -> str | None:
    """The proxy that counts: what is given now, `none` for none, else what is remembered. InputError if it is no proxy."""
    if given == DIRECTLY:
        return None
    proxy = given if given is not None else settings.proxy
    return proxy if proxy is None or proxy == ENVIRONMENT else check_proxy(proxy)


def read_authority(path: Path) -> str:
    """The text of a file of certificates in PEM. InputError where it holds none."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{path} cannot be read as PEM.", "Give --ca the hospital's authority as a PEM file."
        ) from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise InputError(f"{path} holds no certificate.", "Give --ca the hospital's authority as a PEM file.")
    return text
