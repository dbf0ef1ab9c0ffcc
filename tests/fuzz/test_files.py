"""Some mutated files at every doorway: opened or refused by name. More: `scripts/bench faults --only fuzz`."""

from pathlib import Path

from tests.fuzz.files import fuzz_files


def test_a_mutated_file_is_opened_or_refused_by_name(tmp_path: Path) -> None:
    counts = fuzz_files(tmp_path, 138, "a test")
    assert counts.crashes == []
    assert counts.accepted == []
    assert any(words.endswith("opened") for words in counts.refusals)
