"""How fast a folder of DICOM files is indexed and kept, against MONAI; `scripts/bench index`, JSON on the last line.

Real DICOM files: those of the pydicom wheel and of PRIMUM_DATA/dicom that both sides can read, several copies of each,
every copy another patient's, other in its pixels where that is possible. One core for each side, the process that
decodes for Primum included; the two take turns, and the least time of each counts. Primum's time is that of a node's
first start: every file hashed, decoded, prepared at 64 pixels, compared with the others, kept and listed in the
manifest. MONAI's is LoadImage, Resize and torch.save of each file, and no more. MONAI is installed once, pinned, into
`.bench/imaging`, unless it is there.

index_rate                 files per second and core over MONAI's, whose Resize filters as Primum's does (anti_aliasing)
index_rate_aliased         the same where MONAI's Resize skips that filter, which is less work
index_rate_uncompressed    index_rate of the files that are not compressed
epoch_ratio                a shuffled epoch of batches of 64 from the cache: its speed over that from a tensor in memory
first_epoch_ratio          the same of the first epoch after the cache was opened
second_start_s             seconds until a node has 10,000 images again that it has read before
second_start_mb            memory of its own that this takes, MB, above what the process had before
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.errors import InvalidDicomError

from primum.errors import PrimumError
from primum.federation.node import Images, NodeSettings
from primum.imaging import Preparation, read_image
from primum.imaging.cache import Found, Store

PEERS = ("monai==1.6.1",)
COPIES, REPEATS = 7, 3
MANY, BATCH = 10_000, 64
KEY = bytes(32)
DATA = Path(os.environ.get("PRIMUM_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
_INSTALLED = Path(__file__).resolve().parent.parent / ".bench" / "imaging"


def install() -> None:
    """MONAI without its dependencies, which are ours."""
    if find_spec("monai") is not None:
        return
    if not (_INSTALLED / "monai").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(_INSTALLED), *PEERS]
        subprocess.run(command, check=True)
    sys.path.append(str(_INSTALLED))


def monai(anti_aliasing: bool) -> Callable[[Path, Path], None]:
    """A function that loads, resizes and saves one file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.transforms import LoadImage, Resize

    load = LoadImage(reader="PydicomReader", image_only=True, ensure_channel_first=True)
    resize = Resize((64, 64), mode="bilinear", anti_aliasing=anti_aliasing)

    def keep(path: Path, target: Path) -> None:
        image = load(path)
        torch.save(resize(image[..., 0] if image.ndim == 4 else image), target)

    return keep


def sources(folder: Path) -> list[Path]:
    """Files that both sides can read."""
    keep, chosen = monai(anti_aliasing=False), []
    for path in sorted(path for top in (WHEEL, DATA / "dicom") if top.is_dir() for path in top.rglob("*")):
        try:
            pydicom.dcmread(path, stop_before_pixels=True)
            read_image(path, Preparation())
            keep(path, folder / "trial.pt")
        except (PrimumError, InvalidDicomError, IsADirectoryError, RuntimeError, ValueError, TypeError, AttributeError):
            continue
        chosen.append(path)
    return chosen


def copies(chosen: Iterable[Path], folder: Path) -> Path:
    """Two class folders with `COPIES` of each file, each of another patient."""
    for place, path in enumerate(chosen):
        for number in range(COPIES):
            dataset = pydicom.dcmread(path)
            dataset.PatientID = f"bench {place} {number}"
            _alter(dataset, number)
            target = folder / "AB"[number % 2] / f"{place:03d}_{number}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(target)
    return folder


def _alter(dataset: pydicom.Dataset, number: int) -> None:
    """Another picture: by its window where it has one, else by its first pixels where they are not compressed."""
    if "WindowCenter" in dataset and "VOILUTSequence" not in dataset:
        centre = dataset.WindowCenter
        dataset.WindowCenter = float(centre[0] if isinstance(centre, pydicom.multival.MultiValue) else centre) + number
        width = dataset.WindowWidth
        dataset.WindowWidth = width[0] if isinstance(width, pydicom.multival.MultiValue) else width
    elif not dataset.file_meta.TransferSyntaxUID.is_compressed:
        data = bytearray(dataset.PixelData)
        rows = 16 * max(1, dataset.BitsAllocated // 8)
        data[: rows * number] = data[rows * number : 2 * rows * number][: rows * number]
        dataset.PixelData = bytes(data)


def ours(folder: Path) -> float:
    """Seconds of a node's first start: nothing is kept yet."""
    with tempfile.TemporaryDirectory() as state:
        began = time.perf_counter()
        Images(folder, NodeSettings(), KEY, cache=Path(state) / "images").intake(Preparation())
        return time.perf_counter() - began


def theirs(folder: Path, keep: Callable[[Path, Path], None]) -> float:
    """Seconds of MONAI for the same files."""
    with tempfile.TemporaryDirectory() as state:
        began = time.perf_counter()
        for path in sorted(folder.rglob("*.dcm")):
            keep(path, Path(state) / f"{path.stem}.pt")
        return time.perf_counter() - began


def index(folder: Path) -> dict[str, float]:
    """Files per second and core of Primum and of MONAI's two ways, by turns on one core; and Primum's over them."""
    ways = {"filtered": monai(anti_aliasing=True), "aliased": monai(anti_aliasing=False)}
    best = {"ours": float("inf"), **dict.fromkeys(ways, float("inf"))}
    for _ in range(REPEATS):
        best["ours"] = min(best["ours"], ours(folder))
        for name, keep in ways.items():
            best[name] = min(best[name], theirs(folder, keep))
    count = len(list(folder.rglob("*.dcm")))
    print(f"{count} files, per second and core:", {name: round(count / seconds) for name, seconds in best.items()})
    return {name: best[name] / best["ours"] for name in ways}


def epochs(folder: Path) -> dict[str, float]:
    """Batches in a new order from the cache and from memory: the first epoch, and the best of several, by turns."""
    preparation, names = Preparation(), [f"{number:05d}" for number in range(MANY)]
    base = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)).numpy()
    with Store(folder / "epochs", preparation, "labels", KEY) as store:
        for number, name in enumerate(names):
            store.put(name, Found("made", images=base + np.float32(number)))
        memory = store.commit(names)[0].clone()
    with Store(folder / "epochs", preparation, "labels", KEY) as store:
        kept, _ = store.commit(names)
    first, in_memory, from_cache = _epoch(kept), [], []
    for _ in range(10):
        in_memory.append(_epoch(memory))
        from_cache.append(_epoch(kept))
    print(f"an epoch of {MANY} images: {min(from_cache):.3f} s from the cache, {min(in_memory):.3f} s from memory")
    return {
        "epoch_ratio": min(in_memory) / min(from_cache),
        "first_epoch_ratio": min(in_memory) / first,
    }


def _epoch(images: torch.Tensor) -> float:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    began = time.perf_counter()
    for start in range(0, len(order), BATCH):
        images[order[start : start + BATCH]].mean()
    return time.perf_counter() - began


def many(folder: Path) -> Path:
    """10,000 small DICOM files of as many patients, all different."""
    dataset = pydicom.dcmread(WHEEL / "MR_small.dcm")
    dataset.PatientID = "patient 00000"
    dataset.save_as(folder / "template")
    data = (folder / "template").read_bytes()
    pixels = data.index(dataset.PixelData)
    for number in range(MANY):
        one = bytearray(data.replace(b"patient 00000", b"patient %05d" % number))
        one[pixels : pixels + 10] = np.array([140 * int(digit) for digit in f"{number:05d}"], "<i2").tobytes()
        target = folder / "AB"[number % 2] / f"{number:05d}.dcm"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(one)
    (folder / "template").unlink()
    return folder


def start(folder: Path, state: Path) -> dict[str, float]:
    """Seconds until a node has its images, and the memory of its own that this took."""
    before, began = _own_memory(), time.perf_counter()
    found = Images(folder, NodeSettings(), KEY, cache=state).intake(Preparation())
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "mb": (_own_memory() - before) / 1e3, "images": len(found.dataset)}


def _own_memory() -> int:
    """Kilobytes that belong to this process alone: pages of the cache's files are the system's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def second_start(folder: Path) -> dict[str, float]:
    """A first start and two more, each in a process of its own; the quicker of the two."""
    command = [sys.executable, "-m", "bench.index", "--start", str(many(folder / "many")), str(folder / "state")]
    time.sleep(2)  # files of this very moment would be hashed again
    found = []
    for _ in range(3):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    first, later = found[0], min(found[1:], key=lambda one: one["seconds"])
    assert first["images"] == later["images"] == MANY
    print(f"{MANY} files: first start {first['seconds']:.1f} s, second {later['seconds']:.2f} s, {later['mb']:.0f} MB")
    return {"second_start_s": later["seconds"], "second_start_mb": later["mb"]}


def main() -> None:
    """Everything; JSON last."""
    if sys.argv[1:2] == ["--start"]:
        print(json.dumps(start(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    install()
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "many").mkdir()
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        torch.set_num_threads(1)
        chosen = sources(top)
        plain = [path for path in chosen if not _compressed(path)]
        print(f"{len(chosen)} DICOM files that both read, {len(plain)} of them not compressed")
        whole, uncompressed = (index(copies(some, top / kind)) for kind, some in (("all", chosen), ("plain", plain)))
        figures = {
            "index_rate": whole["filtered"],
            "index_rate_aliased": whole["aliased"],
            "index_rate_uncompressed": uncompressed["filtered"],
            **epochs(top),
        }
        os.sched_setaffinity(0, cores)
        figures |= second_start(top)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def _compressed(path: Path) -> bool:
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.get("TransferSyntaxUID")
    return syntax is not None and syntax.is_compressed


if __name__ == "__main__":
    main()
