"""What `primum inspect --against` prints of two folders that share pictures or patients."""

from rich.console import Console
from rich.text import Text

from primum.imaging import Intake
from primum.report.overlap import ADVICE, NO_PATIENTS, NOTHING, TOO_MANY, Overlap, whose


def plain_overlap(found: Overlap, other: Intake) -> dict[str, object]:
    """Plain values: files by name, no pseudonym; `near` and `patients_in_both` null where they were not compared."""
    pairs = [(found.files((pair.first, pair.second)), pair) for pair in found.near or ()]
    near = [
        {"file": here, "other": there, "bits": pair.bits, "correlation": pair.correlation}
        for (here, there), pair in pairs
    ]
    patients = [{"files": list(here), "others": list(there)} for here, there in found.patients or ()]
    return {
        "images": len(other.dataset),
        "patients": other.dataset.patient_count,
        "set_aside": len(other.problems),
        "same": [{"file": here, "other": there} for here, there in map(found.files, found.same)],
        "near": None if found.near is None else near,
        "patients_in_both": None if found.patients is None else patients,
    }


def show_overlap(found: Overlap, other: Intake, name: str, console: Console) -> None:
    """Print each pair and each patient in both by their files, and what to do."""
    data, aside = other.dataset, len(other.problems)
    left_out = f"; {aside} set aside (primum inspect {name} says why)" if aside else ""
    console.print(
        Text(f"\nAgainst {name}: {len(data)} images of {data.patient_count} patients{left_out}"), soft_wrap=True
    )
    _list(console, "The same picture in both", [f"{here}  =  {there}" for here, there in map(found.files, found.same)])
    near = [(found.files((pair.first, pair.second)), pair) for pair in found.near or ()]
    alike = [
        f"{here}  ~  {there}  ({', '.join(filter(None, (f'correlation {pair.correlation:.2f}', whose(found, pair))))})"
        for (here, there), pair in near
    ]
    _list(console, "Nearly the same", alike)
    patients = [f"here {', '.join(here)}; there {', '.join(there)}" for here, there in found.patients or ()]
    _list(console, "Patients in both", patients)
    notes = [NOTHING if found.nothing else ADVICE]
    notes += [TOO_MANY] * (found.near is None) + [NO_PATIENTS] * (found.patients is None)
    for note in notes:
        console.print(Text(note))


def _list(console: Console, heading: str, lines: list[str]) -> None:
    if not lines:
        return
    console.print(Text(f"{heading}: {len(lines)}", style="bold"))
    for line in lines:
        console.print(Text(f"    {line}"), soft_wrap=True)
