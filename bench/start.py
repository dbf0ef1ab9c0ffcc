"""How long a user waits: `primum --help`, and the whole demo on real images. The last line is JSON."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

_REPOSITORY = Path(__file__).resolve().parent.parent


def seconds(*arguments: str) -> float:
    """Wall-clock seconds of one `primum` process, which must succeed."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "primum", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Five starts of the help, one demo."""
    data = Path(os.environ.get("PRIMUM_DATA") or _REPOSITORY.parent / "shared" / "data") / "chest"
    seconds("--help")
    help_s = median(seconds("--help") for _ in range(5))
    with tempfile.TemporaryDirectory() as folder:
        chosen = ("--data", str(data)) if data.is_dir() else ("--drawn",)
        demo_s = seconds("demo", *chosen, "--out", str(Path(folder) / "demo"))
    print(f"primum --help  {help_s:.2f} s (median of 5)")
    print(f"primum demo    {demo_s:.0f} s on {chosen[0][2:]} images, after the installation")
    print(json.dumps({"help_s": round(help_s, 3), "demo_s": round(demo_s, 1)}))


if __name__ == "__main__":
    main()
