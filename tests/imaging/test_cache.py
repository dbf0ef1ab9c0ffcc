"""The cache of prepared images: the same as without it, whatever happens to the folder and to the cache."""

import os
import resource
import shutil
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.imaging.counted import counted, counted_folder, counting, decoded  # noqa: F401 - counting is used by all
from tests.imaging.samples import KEY, grey
from tests.imaging.test_masked import drawn, pictures, volumes

from primum.errors import DataError, MachineError
from primum.imaging import Intake, PatientSource, Preparation, read_folder, read_masked_folder
from primum.imaging.cache import Found, Store, recipe, store_folder

BY_NAME = PatientSource(r"^([a-z]+\d+)")
SMALL = Preparation(16)


def _read(folder: Path, cache: Path | None, **options: Any) -> Intake:
    options = {"preparation": SMALL, "patients": BY_NAME, "pseudonym_key": KEY, **options}
    return read_folder(folder, cache=cache, **options)


def _same(one: Intake, other: Intake) -> bool:
    a, b = one.dataset, other.dataset
    return (
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and (a.patients, a.files, a.classes) == (b.patients, b.files, b.classes)
        and (one.problems, one.notices, one.formats) == (other.problems, other.notices, other.formats)
        and (one.classes, one.patients) == (other.classes, other.patients)
    )


def _decodes(read: Callable[[], object]) -> list[str]:
    decoded.clear()
    read()
    return sorted(decoded)


def test_a_second_reading_decodes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    counted(folder / "A" / "a90_0", "bad")
    (folder / "A" / "a91_copy").write_bytes((folder / "A" / "a00_0").read_bytes())
    counted(folder / "B" / "nobody")
    first = _read(folder, cache)
    assert len(first.dataset) == 8 and len(first.problems) == 3
    assert _decodes(lambda: _read(folder, cache)) == []
    assert _same(first, _read(folder, cache)) and _same(first, _read(folder, None))
    assert not any(path.is_relative_to(folder) for path in tmp_path.rglob("manifest"))


def test_only_what_changed_is_decoded_again(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    _read(folder, cache)
    (folder / "A" / "a00_0").rename(folder / "A" / "a77_0")
    os.utime(folder / "A" / "a01_0", (1, 1))
    counted(folder / "B" / "b00_0", "another")
    counted(folder / "B" / "b88_0")
    assert _decodes(lambda: _read(folder, cache)) == ["b00_0", "b88_0"]
    assert _same(_read(folder, cache), _read(folder, None))


def test_another_pattern_or_order_of_classes_decodes_nothing(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    counted(folder / "C" / "c00_0")
    _read(folder, cache)
    whole = PatientSource(one_image_per_patient=True)
    for options in ({"patients": whole}, {"classes": ("B", "A")}, {}, {"classes": ("C", "B")}, {}):
        assert _decodes(lambda options=options: _read(folder, cache, **options)) == []
        assert _same(_read(folder, cache, **options), _read(folder, None, **options))


def test_another_preparation_has_a_cache_of_its_own(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    for preparation in (SMALL, replace(SMALL, intensity="stretch")):
        assert len(_decodes(lambda made=preparation: _read(folder, cache, preparation=made))) == 8
    for preparation in (SMALL, replace(SMALL, intensity="stretch")):
        assert _decodes(lambda made=preparation: _read(folder, cache, preparation=made)) == []
        assert _same(_read(folder, cache, preparation=preparation), _read(folder, None, preparation=preparation))


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "bad", "remove", "rewrite", "rename", "touch", "swap", "copy", "classes"]),
        st.integers(0, 20),
    ),
    max_size=5,
)


@settings(max_examples=15)
@given(steps=_STEPS)
def test_it_is_the_same_as_without_it_whatever_happens_to_the_folder(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    top = tmp_path_factory.mktemp("twin")
    folder, cache = counted_folder(top / "data"), top / "cache"
    _read(folder, cache)
    for step, number in steps:
        classes = ("B", "A") if step == "classes" else None
        _change(folder, step, number)
        assert _outcome(lambda classes=classes: _read(folder, cache, classes=classes)) == _outcome(
            lambda classes=classes: _read(folder, None, classes=classes)
        )


def _change(folder: Path, step: str, number: int) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    one, other = files[number % len(files)], files[(number + 3) % len(files)]
    if step in ("add", "bad"):
        counted(folder / "AB"[number % 2] / f"n{number}_0", "bad" if step == "bad" else f"new {number}")
    elif step == "rewrite":
        counted(one, f"rewritten {number}")
    elif step == "remove":
        one.unlink()
    elif step == "rename":
        one.rename(one.with_name(f"r{number}_{one.name}"))
    elif step == "touch":
        os.utime(one, (number, number))
    elif step == "copy":
        shutil.copy2(one, other)
    elif step == "swap":
        one.rename(folder / ".aside")
        other.rename(one)
        (folder / ".aside").rename(other)


def _outcome(read: Callable[[], Intake]) -> object:
    """All that an intake says, comparable; or the error."""
    try:
        found = read()
    except DataError as error:
        return str(error)
    data = found.dataset
    return (
        data.images.numpy().tobytes(), data.labels.tolist(), data.patients, data.files, found.problems, found.notices,
        found.formats, found.classes, found.patients,
    )  # fmt: skip


@settings(max_examples=25)
@given(
    which=st.integers(0, 2),
    place=st.integers(0, 1 << 20),
    bit=st.integers(0, 7),
    how=st.sampled_from(["flip", "cut", "gone"]),
)
def test_damage_anywhere_is_found_and_only_what_it_hit_is_decoded_again(
    tmp_path_factory: pytest.TempPathFactory, which: int, place: int, bit: int, how: str
) -> None:
    top = tmp_path_factory.mktemp("damaged")
    folder, cache = counted_folder(top / "data"), top / "cache"
    expected = _read(folder, None)
    _read(folder, cache)
    path = sorted(path for path in cache.rglob("*") if path.is_file())[which]
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place] ^= 1 << bit
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data if how == "flip" else data[:place])
    again: list[Intake] = []
    count = len(_decodes(lambda: again.append(_read(folder, cache))))
    assert _same(again[0], expected)
    if path.name == "manifest":
        assert count == 0
    elif how == "flip":
        assert count == (8 if path.name == "index" else 1)
    assert _decodes(lambda: _read(folder, cache)) == []


def test_a_cache_of_another_node_or_of_another_preparation_is_not_used(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    _read(folder, cache)
    assert len(_decodes(lambda: _read(folder, cache, pseudonym_key=bytes(32)))) == 8
    other = replace(SMALL, fit="crop")
    mine, its = (store_folder(cache, one, "labels") for one in (SMALL, other))
    shutil.copytree(mine, its)
    assert len(_decodes(lambda: _read(folder, cache, preparation=other, pseudonym_key=bytes(32)))) == 8
    assert recipe(SMALL, "labels") != recipe(other, "labels") != recipe(other, "masks")


def test_files_are_private_and_plain_rows(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    data = _read(folder, cache).dataset
    inside = list(cache.rglob("*"))
    assert all(path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600) for path in inside)
    assert cache.stat().st_mode & 0o777 == 0o700
    rows = next(path for path in inside if path.name.startswith("images"))
    assert np.array_equal(np.fromfile(rows, np.float32), data.images.numpy().ravel())
    assert not any(b"a00" in path.read_bytes() for path in inside if path.name not in ("manifest",) and path.is_file())


def test_what_a_user_writes_into_the_tensor_does_not_reach_the_cache(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    data = _read(folder, cache).dataset
    before = data.images.clone()
    data.images.zero_()
    assert torch.equal(_read(folder, cache).dataset.images, before)


def test_an_old_data_set_lives_on_when_the_cache_is_written_anew(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    old = _read(folder, cache).dataset
    before = old.images.clone()
    counted(folder / "A" / "a00_0", "another")
    new = _read(folder, cache).dataset
    assert torch.equal(old.images, before) and not torch.equal(new.images, before)


def test_images_that_are_gone_from_the_folder_are_gone_from_every_cache(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    for preparation in (SMALL, replace(SMALL, fit="crop")):
        data = _read(folder, cache, preparation=preparation).dataset
        row = data.images[data.files.index("A/a02_0")].numpy().tobytes()
        assert any(row in path.read_bytes() for path in cache.rglob("images-*"))
    rows = [_read(folder, cache, preparation=replace(SMALL, fit=fit)).dataset for fit in ("squash", "crop")]
    gone = [data.images[data.files.index("A/a02_0")].numpy().tobytes() for data in rows]
    (folder / "A" / "a02_0").unlink()
    _read(folder, cache)
    assert not any(row in path.read_bytes() for path in cache.rglob("*") if path.is_file() for row in gone)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_build_leaves_the_old_cache_or_none(tmp_path: Path, error: type[BaseException]) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"

    def stop(done: int, total: int) -> None:
        if done == total - 1:
            raise error

    with pytest.raises(error):
        _read(folder, cache, progress=stop)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    _read(folder, cache)
    counted(folder / "A" / "a00_0", "another")
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    with pytest.raises(error):
        _read(folder, cache, progress=stop)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before


def test_what_was_decoded_is_kept_although_the_folder_is_refused(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data", 2), tmp_path / "cache"
    with pytest.raises(DataError, match="4 patients"):
        _read(folder, cache)
    counted(folder / "A" / "a90_0")
    assert _decodes(lambda: _read(folder, cache)) == ["a90_0"]
    assert _same(_read(folder, cache), _read(folder, None))
    (folder / "A").rename(tmp_path / "away")  # as a disk that is not there
    with pytest.raises(DataError, match="one class only"):
        _read(folder, cache)
    (tmp_path / "away").rename(folder / "A")
    assert _decodes(lambda: _read(folder, cache)) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    _read(folder, cache)
    left = store_folder(cache, SMALL, "labels") / "images.123.part"
    left.write_bytes(b"pixels")
    _read(folder, cache)
    assert not left.exists()


def test_a_full_disk_leaves_the_old_cache_and_says_so(tmp_path: Path) -> None:
    """As a full disk, a limit on the size of files: writing fails in the middle of the pixels."""
    folder, cache = counted_folder(tmp_path / "data"), tmp_path / "cache"
    _read(folder, cache)
    for number in range(40):
        counted(folder / "A" / f"n{number}_0")
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(MachineError, match="cannot be written") as caught:
                _read(folder, cache)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert caught.value.hint
        assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before
    assert len(_read(folder, cache).dataset) == 48


def test_ten_thousand_images_are_written_and_read_in_little_memory(tmp_path: Path) -> None:
    """160 MB of images at 64 pixels; NumPy's and Python's memory stays far below."""
    preparation, names = Preparation(64), [f"{number:05d}" for number in range(10_000)]
    base = np.tile(grey("many", 64, 64).astype(np.float32)[None, None], (1, 1, 1, 1)) / 255
    tracemalloc.start()
    with Store(tmp_path / "many", preparation, "labels", KEY) as store:
        for number, name in enumerate(names):
            store.put(name, Found("PNG", patient=name, images=base + np.float32(number)))
        images, _ = store.commit(names)
    with Store(tmp_path / "many", preparation, "labels", KEY) as store:
        images, _ = store.commit(names)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.shape == (10_000, 1, 64, 64) and images[9_999].mean().item() == pytest.approx(9_999.4, abs=1)
    assert peak < 32e6 < images.nbytes


def _masked(folder: Path, cache: Path | None, **options: Any) -> Intake:
    options = {"preparation": SMALL, "patients": BY_NAME, "pseudonym_key": KEY, **options}
    return read_masked_folder(folder, cache=cache, **options)


def test_masks_are_kept_beside_their_images(tmp_path: Path) -> None:
    folder, cache = volumes(pictures(tmp_path / "data"), 2, "images", "masks"), tmp_path / "cache"
    for number in range(3):
        counted(folder / "images" / f"q{number}_a")
        shutil.copy(folder / "masks" / f"p{number}_a.png", folder / "masks" / f"q{number}_a.png")
    first = _masked(folder, cache)
    assert first.dataset.masked and len(first.dataset) == 6 + 3 + 2 * 10
    assert _decodes(lambda: _masked(folder, cache)) == []
    assert _same(_masked(folder, cache), first) and _same(first, _masked(folder, None))
    drawn(folder / "masks" / "q0_a.png", "xx")
    (folder / "masks" / "q1_a.png").write_bytes(b"no picture")
    assert _decodes(lambda: _masked(folder, cache)) == ["q0_a"]
    assert _same(_masked(folder, cache), _masked(folder, None))
    named = {"classes": ("background", "organ", "vessel")}
    assert _same(_masked(folder, cache, **named), _masked(folder, None, **named))


def test_a_damaged_mask_is_found(tmp_path: Path) -> None:
    folder, cache = pictures(tmp_path / "data"), tmp_path / "cache"
    expected = _masked(folder, None)
    _masked(folder, cache)
    path = next(cache.rglob("masks-*"))
    path.write_bytes(bytes(path.stat().st_size))
    assert _same(_masked(folder, cache), expected)
    with suppress(OSError):
        path.unlink()
    assert _same(_masked(folder, cache), expected)
