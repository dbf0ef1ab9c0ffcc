"""What a node must not forget."""

from pathlib import Path

from primum.federation.memory import Memory


def test_everything_is_on_disk_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "memory.sqlite"
    Memory(path).use_round(b"run", 7)
    again = Memory(path)
    assert again.used_round(b"run") == 7


def test_a_new_run_has_used_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.sqlite")
    assert memory.used_round(b"run") == 0


def test_the_share_of_evaluation_patients_is_the_first_one_for_ever(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.sqlite")
    assert memory.evaluation_share(0.15) == 0.15
    assert memory.evaluation_share(0.5) == 0.15
    assert Memory(tmp_path / "memory.sqlite").evaluation_share(0.3) == 0.15


def test_one_model_is_opened_for_one_set_only(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.sqlite")
    assert memory.same_set(b"model", b"all")
    assert memory.same_set(b"model", b"all")
    assert not memory.same_set(b"model", b"all but one")
    assert memory.same_set(b"next model", b"all but one")
