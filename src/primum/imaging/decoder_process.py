"""The other side of decoder.py: decodes compressed DICOM frames in a process of its own, which may die.

Run as a script, so that it starts without the rest of Primum. Request on standard input: length (4 bytes, big endian)
and JSON of the elements that the pixels need, then length and the encoded frame. Answer on standard output: length and
JSON of kind and shape, then length and the values; or {"error": kind of the exception} and no values.
"""

import contextlib
import json
import os
import sys
from typing import IO, Any

import gdcm
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import UID, JPEGExtended12Bit

MEMORY = 8 << 30
"""Bytes of address space that a frame may take."""


def decoded(said: dict[str, Any], encoded: bytes) -> Any:
    """Values of one frame: by gdcm itself where pydicom asks for a decoder under the GPL, else by pydicom's choice."""
    if said["syntax"] == JPEGExtended12Bit and said["BitsStored"] > 8:
        return _extended_jpeg(said, encoded)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(said["syntax"])
    for name, value in said.items():
        if name != "syntax":
            setattr(dataset, name, value)
    dataset.PixelData = encapsulate([encoded])
    return pixel_array(dataset, index=0)


def _extended_jpeg(said: dict[str, Any], encoded: bytes) -> Any:
    """JPEG Extended of 12 bits, grey."""
    if said["BitsAllocated"] != 16 or said["SamplesPerPixel"] != 1:
        raise NotImplementedError("grey values of 16 bits only")
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(encoded)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((said["Columns"], said["Rows"], 1))
    image.SetDataElement(element)
    shown = gdcm.PhotometricInterpretation.GetPIType(said["PhotometricInterpretation"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(shown))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(said["syntax"])))
    bits = said["BitsStored"]
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, said["PixelRepresentation"]))
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(data, "i2" if said["PixelRepresentation"] else "u2").reshape(said["Rows"], said["Columns"])


def _read(source: IO[bytes]) -> bytes:
    return source.read(int.from_bytes(source.read(4), "big"))


def _write(target: IO[bytes], *parts: bytes) -> None:
    for part in parts:
        target.write(len(part).to_bytes(4, "big") + part)
    target.flush()


def main() -> None:
    """Answer until standard input ends."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # what the decoders print must not mix with the answers
    os.dup2(silence, 2)
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while said := _read(source):
        encoded = _read(source)
        try:
            values = np.ascontiguousarray(decoded(json.loads(said), encoded))
            answer = json.dumps({"kind": values.dtype.str, "shape": values.shape}).encode(), values.tobytes()
        except Exception as error:  # decoders raise everything; only the kind is told
            answer = json.dumps({"error": type(error).__name__}).encode(), b""
        _write(target, *answer)


if __name__ == "__main__":
    main()
