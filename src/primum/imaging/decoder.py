"""Compressed DICOM frames decoded in a process of their own (decoder_process.py).

gdcm is the only free decoder of JPEG Lossless, JPEG-LS and JPEG of 12 bits, and a damaged file can end the process that
it runs in. So it runs in another one, which knows no key and no other image, and is started again when it has died.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

PATIENCE: Final = 120.0
"""Seconds for one frame; a decoder that takes longer is ended."""
_SCRIPT: Final = Path(__file__).with_name("decoder_process.py")
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "VIRTUAL_ENV")
_LARGEST_ANSWER: Final = 1 << 31


class _Decoder:
    """One process, started when first needed; `lock`: one frame at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self.lock = threading.Lock()

    def pipes(self) -> tuple[IO[bytes], IO[bytes], "subprocess.Popen[bytes]"]:
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            if self.owner == os.getpid():
                self.end()
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            self.owner = os.getpid()
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("the decoder has no pipes")
        return self.process.stdin, self.process.stdout, self.process

    def end(self) -> None:
        """End the process, if this one started it."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except OSError:
                        continue
            self.process.wait()
        self.process = None


_decoder: Final = _Decoder()
atexit.register(_decoder.end)


def decode_apart(elements: dict[str, Any], encoded: bytes) -> npt.NDArray[Any]:
    """The values of one frame; `elements`: what pixels need, and "syntax". Raises RuntimeError where it cannot."""
    with _decoder.lock:
        try:
            to, back, process = _decoder.pipes()
            timer = threading.Timer(PATIENCE, process.kill)
            timer.start()
            try:
                for part in (json.dumps(elements).encode(), encoded):
                    to.write(len(part).to_bytes(4, "big") + part)
                to.flush()
                answer, values = json.loads(_part(back)), _part(back)
            finally:
                timer.cancel()
        except (OSError, EOFError, ValueError) as error:
            _decoder.end()
            raise RuntimeError("the decoder has died") from error
    if "error" in answer:
        raise RuntimeError(f"the decoder says {answer['error']}")
    return np.frombuffer(values, answer["kind"]).reshape(answer["shape"])


def _part(source: IO[bytes]) -> bytes:
    length = source.read(4)
    if len(length) < 4 or int.from_bytes(length, "big") > _LARGEST_ANSWER:
        raise EOFError
    data = source.read(int.from_bytes(length, "big"))
    if len(data) < int.from_bytes(length, "big"):
        raise EOFError
    return data
