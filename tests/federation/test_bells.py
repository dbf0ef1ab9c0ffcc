"""Whoever waits is rung for at once; a ring that nobody hears does no harm."""

import asyncio
import stat
import threading
import time
from pathlib import Path

from primum.federation.bells import FRONT, Bell, listening, ring, ring_programs
from primum.federation.waiting_room import WaitingRoom


def test_a_ring_is_heard_by_whom_it_is_for(tmp_path: Path) -> None:
    with listening(tmp_path, FRONT) as front, listening(tmp_path, "run") as run, listening(tmp_path, "other") as other:
        ring(tmp_path, FRONT)
        assert front.wait(5) and not run.wait(0) and not front.wait(0)
        ring_programs(tmp_path)
        assert run.wait(5) and other.wait(5) and not front.wait(0)


def test_many_rings_are_one_and_rings_before_the_wait_count(tmp_path: Path) -> None:
    with listening(tmp_path, "run") as run:
        for _ in range(100_000):  # more than a pipe holds
            ring(tmp_path, "run")
        assert run.wait(0)
        assert not run.wait(0)


def test_a_ring_without_anybody_there_is_nothing(tmp_path: Path) -> None:
    ring(tmp_path, FRONT)
    ring_programs(tmp_path)
    with listening(tmp_path, "run"):
        (tmp_path / "bells" / "left-over").touch()
        ring_programs(tmp_path)
    ring(tmp_path, "run")
    assert not (tmp_path / "bells" / "run").exists()


def test_bells_are_private_and_one_that_was_left_is_hung_anew(tmp_path: Path) -> None:
    (tmp_path / "bells").mkdir()
    (tmp_path / "bells" / "run").write_text("left by a killed program")
    with listening(tmp_path, "run") as run:
        assert stat.S_IMODE((tmp_path / "bells" / "run").stat().st_mode) == 0o600
        ring(tmp_path, "run")
        assert run.wait(5)


async def waits(room: WaitingRoom, seconds: float) -> tuple[bool, float]:
    began = time.monotonic()
    return await room.wait(room.next_call(), seconds), time.monotonic() - began


def test_whoever_waits_in_the_room_is_called_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    async def play(bell: Bell) -> None:
        room = WaitingRoom(bell)
        assert (await waits(room, 0.05))[0] is False
        several = asyncio.gather(*(waits(room, 30) for _ in range(5)))
        threading.Timer(0.1, ring, (tmp_path, FRONT)).start()
        assert all(called for called, _ in await several)
        call = room.next_call()  # rung between looking and waiting
        ring(tmp_path, FRONT)
        assert await room.wait(call, 30)

    with listening(tmp_path, FRONT) as bell:
        asyncio.run(play(bell))


def test_without_a_bell_nobody_is_held() -> None:
    assert asyncio.run(waits(WaitingRoom(), 30))[0] is False
