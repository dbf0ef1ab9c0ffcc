"""Private against plain training steps, and against Opacus and deepee; `scripts/bench dp`, JSON on the last line.

Each network has a process of its own, in which plain and private steps take turns, two of each, of which the second
counts; a ratio is the median over pairs.
The peers take turns with ours in the same process. Peak memory is that of a process that makes one kind of step alone,
less what it had before the first. Peers are installed once, pinned, into `.bench/dp`.

step_ratio_max, step_ratio_mean    clipping alone over a plain step: the largest, the geometric mean
private_ratio_max                  256 examples clipped, then rounding and integer noise once, over plain steps of 256
opacus_cnn28, ..._unet             the best of Opacus's ways over ours
memory_ratio                       the least peak of Opacus's ways over ours, ResNet-18 at 64 x 64
deepee_ratio                       deepee over ours, the smaller of the networks on which it runs; left out if on none
kept_unet                          a step of ours over a plain one where freed memory is kept (`primum.heap`, as nodes do)
                                   for ours and given back for the plain one
"""

import argparse
import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.dp_models import CASES, Case, loss
from bench.dp_ways import NORM, OPACUS, WAYS, Step
from primum import heap
from primum.clipping import Clipper
from primum.dp.mechanism import Mechanism
from primum.rng import Stream

LOGICAL = 256
PEERS = ("opacus==1.6.0", "opt_einsum==3.4.0", "monai==1.6.1", "deepee==0.1.9")
DEEPEE = ("cnn28", "r18_64")
_REPOSITORY = Path(__file__).resolve().parent.parent
_INSTALLED = _REPOSITORY / ".bench" / "dp"


def install() -> None:
    """The peers without their dependencies, which are ours."""
    if not (_INSTALLED / "opacus").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(_INSTALLED), *PEERS]
        subprocess.run(command, check=True)
    sys.path.append(str(_INSTALLED))


def seconds(step: Step) -> float:
    """Of one step, after one that is not counted: in a training steps of one kind follow each other."""
    step()
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def compare(case: Case) -> dict[str, Any]:
    """Ratios of one network."""
    plain, ours = WAYS["plain"](case), WAYS["clipped"](case)
    for step in (plain, ours, plain, ours):
        step()
    pairs = [(seconds(plain), seconds(ours)) for _ in range(case.repeats)]
    result: dict[str, Any] = {
        "plain_s": median(pair[0] for pair in pairs),
        "ours_s": median(pair[1] for pair in pairs),
        "step_ratio": median(pair[1] / pair[0] for pair in pairs),
        "noise_s": noise_seconds(case),
    }
    steps = LOGICAL / case.inputs[0]
    result["private_ratio"] = result["step_ratio"] + result["noise_s"] / (steps * result["plain_s"])
    for name in (*OPACUS, *(("deepee",) if case.name in DEEPEE else ())):
        result[name] = against(case, name, ours)
    with heap.kept():
        ours()
        pairs = [(seconds(plain), seconds(ours)) for _ in range(case.repeats)]
    result["kept_plain"], result["kept_ours"] = (
        median(times) / result["plain_s"] for times in zip(*pairs, strict=True)
    )
    return result


def noise_seconds(case: Case) -> float:
    """Of taking a clipped sum, rounding, noise, and setting gradients."""
    model, (inputs, targets) = case.model(), case.batch()
    clipper = Clipper(model, loss, NORM, rows=len(inputs))
    mechanism = Mechanism(clipper.dimension, NORM, 1.0, 1, 1, LOGICAL, share_width=64.0)
    stream, times = Stream.from_os(), []
    for _ in range(4):
        clipper.add(inputs, targets)
        began = time.perf_counter()
        noisy = mechanism.restore(mechanism.share(clipper.take().numpy(), stream))
        clipper.write(torch.from_numpy(noisy) / LOGICAL)
        times.append(time.perf_counter() - began)
    return min(times)


def against(case: Case, name: str, ours: Step) -> float | None:
    """A peer's step over ours; None, with the reason on the error stream, where it does not run."""
    try:
        step = WAYS[name](case)
        step()
        return median(seconds(step) / seconds(ours) for _ in range(max(3, case.repeats // 4)))
    except Exception as error:
        print(f"{name} does not run {case.name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        return None


def peak(case: Case, name: str) -> float:
    """Megabytes beyond what the process had, of three steps."""
    step = WAYS[name](case)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def part(*arguments: str) -> Any:
    """What this file prints in a process of its own."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "bench.dp", "--part", *arguments]
    done = subprocess.run(command, cwd=_REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def figures(results: dict[str, dict[str, Any]], memory: dict[str, float]) -> dict[str, float]:
    """The keys of the last line."""
    ratios = [result["step_ratio"] for result in results.values()]
    found = {
        "step_ratio_max": max(ratios),
        "step_ratio_mean": math.prod(ratios) ** (1 / len(ratios)),
        "private_ratio_max": max(result["private_ratio"] for result in results.values()),
    }
    for name, result in results.items():
        ways = [result[way] for way in OPACUS if result[way] is not None]
        if ways:
            found[f"opacus_{name}"] = min(ways)
    if memory:
        found["memory_ratio"] = min(memory[way] for way in OPACUS) / memory["clipped"]
    if "unet" in results:
        found["kept_unet"] = results["unet"]["kept_ours"]
    slow = [result["deepee"] for result in results.values() if result.get("deepee")]
    if slow:
        found["deepee_ratio"] = min(slow)
    return {name: round(value, 3) for name, value in found.items()}


def table(results: dict[str, dict[str, Any]], memory: dict[str, float]) -> Table:
    """For people."""
    columns = ("plain_s", "step_ratio", "private_ratio", *OPACUS, "deepee", "kept_plain", "kept_ours")
    drawn = Table(title=f"one step, {torch.get_num_threads()} threads; peers as multiples of ours")
    drawn.add_column("network")
    for column in columns:
        drawn.add_column(column, justify="right")
    for name, result in results.items():
        values = (result.get(column) for column in columns)
        drawn.add_row(name, *("-" if value is None else f"{value:.3g}" for value in values))
    if memory:
        drawn.caption = "peak memory, ResNet-18 64 x 64: " + ", ".join(f"{k} {v:,.0f} MB" for k, v in memory.items())
    return drawn


def main() -> int:
    """Print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="scripts/bench dp", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="these networks only")
    parser.add_argument("--part", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    install()
    if arguments.part:
        name, *way = arguments.part
        with contextlib.redirect_stdout(sys.stderr):
            found = peak(CASES[name], way[0]) if way else compare(CASES[name])
        print(json.dumps(found))
        return 0
    results = {name: part(name) for name in arguments.only or CASES}
    memory = {}
    if "r18_64" in results:
        memory = {way: part("r18_64", way) for way in ("plain", "clipped", *OPACUS)}
    Console(width=140).print(table(results, memory))
    print(json.dumps(figures(results, memory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
