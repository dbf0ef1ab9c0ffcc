"""What breaks, and whether it breaks the study: kills, random schedules, mutated messages and files, a soak, traffic.

`scripts/bench faults [--only kills schedules fuzz traffic link soak] [--quick]`; run it where nothing else runs. A table on
standard error, JSON on the last line:

kills                    different pairs of process and stage at which it was killed with -9 in real processes
wrong_results            sums, answers, numbers or journals that were wrong afterwards
lost_entries             vectors that left and stand in no ledger
hangs                    runs or requests that stood still, or waited without saying for whom
slowest_s                the longest from a process's being back to the next finished round or answer
schedules, exact_sums    random schedules of secure aggregation that all held, and the sums that came out of them
fuzz_messages, past_frame, fuzz_files, crashes, accepted   mutants, and what came of them
link                     45 MB rounds over a bad link, as a share of what its bandwidth allows
soak_*                   hospitals, minutes, rounds; growth of resident memory (shares) and of open descriptors
traffic_found, planted_found, foreign_connections          what stood readable on the loopback interface
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTS = ("kills", "schedules", "fuzz", "traffic", "link", "soak")
Say = Callable[[str], None]


def kills(arguments: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Federation and diagnosis."""
    from bench.faults_findings import Outcome
    from bench.faults_kills import PROCESSES, STAGES, federation_kills
    from bench.faults_kills_diagnosis import SHARES, diagnosis_kills

    quick, total = arguments.quick, Outcome()
    if arguments.processes is None:
        with tempfile.TemporaryDirectory() as folder:
            total.add(diagnosis_kills(Path(folder), say, shares=SHARES[::3] if quick else SHARES))
    with tempfile.TemporaryDirectory() as folder:
        chosen = tuple(arguments.processes or PROCESSES)
        total.add(federation_kills(Path(folder), say, chosen, STAGES[1:6:2] if quick else STAGES))
    for words in total.words:
        say(f"WRONG: {words}")
    for pair in total.missed:
        say(f"not reached: {pair}")
    return {
        "kills": len(total.killed),
        "wrong_results": total.wrong_results,
        "lost_entries": total.lost_entries,
        "hangs": total.hangs,
        "slowest_s": round(total.slowest, 1),
    }


def schedules(arguments: argparse.Namespace, say: Say) -> dict[str, Any]:
    """On the state machines, in this process."""
    from bench.faults_schedules import schedules as play

    return play(50 if arguments.quick else 1000, say)


def fuzz(arguments: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Messages and files."""
    from bench.faults_fuzz import fuzz as mutate

    return mutate(500 if arguments.quick else 10_000, 100 if arguments.quick else 1000, say)


def traffic(arguments: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Of the whole demo."""
    from bench.faults_traffic import chest_images
    from bench.faults_traffic import traffic as record

    with tempfile.TemporaryDirectory() as folder:
        return record(chest_images(Path(folder)), 40 if arguments.quick else 1000, say)


def link(arguments: argparse.Namespace, say: Say) -> dict[str, Any]:
    """45 MB rounds over a bad link: `scripts/bench link`."""
    command = [sys.executable, "-m", "bench.link", *(["--widths", "8", "16"] if arguments.quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    say(done.stdout.strip().splitlines()[-1])
    return {"link": json.loads(done.stdout.strip().splitlines()[-1])["link"]}


def soak(arguments: argparse.Namespace, say: Say) -> dict[str, Any]:
    """30 hospitals for ten minutes, or as many and as long as the options say."""
    from bench.faults_soak import soak as run

    nodes, minutes = (4, 2.0) if arguments.quick else (arguments.nodes, arguments.minutes)
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), nodes, minutes, say)


def main() -> None:
    """Each part in turn."""
    parser = argparse.ArgumentParser(description="Kills, schedules, mutants, soak, traffic.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="a small number of each")
    parser.add_argument("--processes", nargs="+", help="of the federation, that alone are killed")
    parser.add_argument("--nodes", type=int, default=30, help="hospitals of the soak")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in (part for part in PARTS if part in arguments.only):
        began = time.monotonic()

        def say(text: str, began: float = began, name: str = name) -> None:
            print(f"{name} {time.monotonic() - began:6.0f} s  {text}", file=sys.stderr, flush=True)

        figures |= globals()[name](arguments, say)
        say("done")
    for key, value in figures.items():
        print(f"{key:<26}{value}", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
