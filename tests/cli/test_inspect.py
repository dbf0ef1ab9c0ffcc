"""`primum inspect`, as its users run it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.imaging.samples import WHEEL, two_classes


def _inspect(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from primum.cli import main; main()"
    command = [sys.executable, "-c", code, "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_a_node_would_offer_and_what_it_cannot_use(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    (folder / "A" / "a77_report.dcm").write_bytes((WHEEL / "reportsi.dcm").read_bytes())
    (folder / "B" / "[bold]b88_text.png").write_text("no picture")
    ended = _inspect(folder, "--patient", r"(\w+)_")
    assert ended.returncode == 0 and ended.stderr == ""
    for words in ("12 PNG", "2 set aside", "A/a77_report.dcm", "B/[bold]b88_text.png", "without pixels"):
        assert words in ended.stdout
    ended = _inspect(folder, "--patient", r"(\w+)_", "--json")
    told = json.loads(ended.stdout)
    assert told["classes"] == {"A": {"images": 6, "patients": 6}, "B": {"images": 6, "patients": 6}}
    assert {problem["file"] for problem in told["problems"]} == {"A/a77_report.dcm", "B/[bold]b88_text.png"}


def test_an_unusable_folder_ends_with_2_and_two_lines(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    for arguments in ((folder,), (tmp_path / "gone",), (folder, "--patient", "(")):
        ended = _inspect(*arguments)
        assert ended.returncode == 2 and ended.stdout == ""
        assert ended.stderr.startswith("Error: ") and len(ended.stderr.splitlines()) == 2
        assert "Traceback" not in ended.stderr
