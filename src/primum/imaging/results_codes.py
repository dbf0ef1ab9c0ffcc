"""Our own codes in DICOM results, for what no public scheme has a code for: the classes of a study, by their place."""

from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem

from primum.imaging.results_files import MANUFACTURER

OWN_CODES: Final = "99PRIMUM"
"""The designator of a private coding scheme begins with 99 (PS3.16 chapter 8)."""


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """Whose the codes are, for a reader that does not know them (PS3.3 C.12.1)."""
    name = "Classes of a study, by their place"
    return [CodingSchemeIdentificationItem(OWN_CODES, name=name, responsible_organization=MANUFACTURER)]
