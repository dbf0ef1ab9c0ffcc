"""`primum budget`: what a study will cost each patient, and what a hospital has left."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from primum.dp.account import Steps
    from primum.dp.ledger import Entry
    from primum.federation.policy import Policy
    from primum.study import Study
    from primum.tasks.plan import Plan

_QUARTERS = (0.25, 0.5, 0.75, 1.0)
_MOST_SHOWN = 8


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path), required=False)
@click.option("--node", type=click.Path(path_type=Path), help="A node's state folder: what is left under its cap.")
@click.option("--suggest/--no-suggest", "others", default=True, show_default=True, help="Other settings, same epsilon.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(study_file: Path | None, node: Path | None, others: bool, as_json: bool) -> None:
    """Show what STUDY_FILE will cost each patient, what a hospital has left (--node), or both and whether it fits.

    Nothing is asked of anybody and nothing is written.
    """
    from primum.errors import InputError
    from primum.study import Study

    if study_file is None and node is None:
        raise InputError("Neither a study nor a node was named.", "primum budget study.toml, or --node node-state.")
    told: dict[str, Any] = {}
    study = None if study_file is None else Study.read(study_file)
    if study is not None:
        told["study"] = describe(study, others)
    if node is not None:
        told["node"] = left(node, study)
    if as_json:
        click.echo(json.dumps(_plain(told), ensure_ascii=False))
        return
    if "study" in told:
        show_study(told["study"])
    if "node" in told:
        show_node(told["node"])


def describe(study: "Study", others: bool) -> dict[str, Any]:
    """What a study costs, by name; a study without members is taken to have three hospitals."""
    from primum.dp import account

    plan, stood_in = _planned(study)
    privacy, training = plan.study.privacy, plan.study.training
    assert privacy is not None
    whole, delta = plan.training_steps(training.rounds), plan.accounted_delta
    return {
        "name": study.study.name,
        "hospitals": plan.hospitals,
        "hospitals_stood_in": stood_in,
        "unit": privacy.unit,
        "patients": privacy.patients,
        "epsilon": privacy.epsilon,
        "delta": privacy.delta,
        "rounds": training.rounds,
        "local_steps": training.local_steps,
        "sampling": training.sampling,
        "noise_multiplier": privacy.noise_multiplier,
        "epsilon_after": {count: plan.epsilon_after(count) for count in _shown(training.rounds)},
        "epsilon_by_rdp": account.epsilon_by_rdp(whole, delta),
        "epsilon_all_others_collude": account.epsilon(plan.training_steps(training.rounds, honest=1), delta),
        "epsilon_replace": account.epsilon(whole, delta, replace=True),
        "epsilon_patient": _of_patients(plan, whole, delta),
        "looks": plan.looks,
        "evaluation_epsilon": account.epsilon(plan.evaluation_steps(plan.looks), delta),
        "expected_visits": training.sampling * plan.most_steps,
        "suggestions": _others(plan) if others else [],
    }


def _planned(study: "Study") -> tuple["Plan", bool]:
    from primum.errors import StudyError
    from primum.study import Hospitals
    from primum.tasks.plan import Plan, resolve

    if study.privacy is None:
        raise StudyError(
            f"Study {study.study.name} has no [privacy] section: it promises nothing, so there is nothing to count.",
            "Add the section; `primum new study` writes a commented example.",
        )
    stood_in = not study.hospitals.members
    if stood_in:
        named = {**study.hospitals.model_dump(), "members": tuple(f"{place:064x}" for place in range(1, 4))}
        study = study.model_copy(update={"hospitals": Hospitals(**named)})
    plan = Plan(study if study.privacy and study.privacy.noise_multiplier else resolve(study))
    plan.check()
    return plan, stood_in


def _shown(rounds: int) -> list[int]:
    return sorted({max(1, math.ceil(rounds * share)) for share in _QUARTERS})


def _of_patients(plan: "Plan", whole: "Steps", delta: float) -> dict[int, float]:
    """epsilon of a patient by number of images; empty where the unit is the patient, whatever images there are."""
    from primum.dp import account

    privacy = plan.study.privacy
    if privacy is None or privacy.unit == "patient":
        return {}
    counts = sorted({min(2, privacy.images_per_patient), privacy.images_per_patient})
    return {count: account.patient_epsilon(whole, delta, count) for count in counts}


def _others(plan: "Plan") -> list[dict[str, Any]]:
    """Other rates and rounds at the same epsilon, the most signal first; signal as a share of the study's own."""
    from primum.dp import account
    from primum.dp.account import Budget
    from primum.errors import InputError

    privacy, training = plan.study.privacy, plan.study.training
    assert privacy is not None
    q, rounds, local = training.sampling, training.rounds, training.local_steps
    samplings = sorted({min(1.0, q * factor) for factor in (0.5, 1, 2, 4)})
    counts = sorted({max(1, rounds * factor // 2) * local for factor in (1, 2, 4)})
    budget = Budget(privacy.epsilon, plan.accounted_delta)
    sigma = plan.training_steps(1).sigma
    own = q * privacy.patients * math.sqrt(plan.most_steps) / sigma
    try:
        found = account.suggest(
            budget, privacy.patients, samplings, counts, most_visits=max(100.0, 4 * q * max(counts))
        )
    except InputError:  # so few patients that no other rate has a batch worth the name
        return []
    return [
        {
            "sampling": one.sampling,
            "rounds": one.steps // local,
            "noise_multiplier": plan.multiplier_for(one.noise_multiplier),
            "expected_visits": one.visits,
            "signal": one.signal / own,
        }
        for one in found[:_MOST_SHOWN]
    ]


def left(folder: Path, study: "Study | None") -> dict[str, Any]:
    """What a hospital's ledger holds and what is left under its cap, by name; with a study, whether that fits."""
    from primum.dp.ledger import EVALUATION, TRAINING
    from primum.federation.policy import Policy

    _require_node(folder)
    policy = Policy.read(folder / "policy.toml")
    ruled = policy or Policy()
    entries, spent = _ledger(folder / "ledger.sqlite", ruled)
    needed = _needed(study, ruled)
    budget = ruled.cap.budget
    populations = {
        name: {
            "spent_rdp": spent[name],
            "left_rdp": max(0.0, budget - spent[name]),
            "left_share": max(0.0, 1 - spent[name] / budget),
            "spent_epsilon": _epsilon(spent[name], ruled),
            "studies": _studies([entry for entry in entries if entry.population == name], ruled),
            **({"needed_rdp": needed[name], "fits": spent[name] + needed[name] <= budget} if needed else {}),
        }
        for name in (TRAINING, EVALUATION)
    }
    return {
        "folder": str(folder),
        "policy": policy is not None,
        "epsilon_cap": ruled.epsilon_cap,
        "delta": ruled.delta_max,
        "rdp_order": ruled.rdp_order,
        "budget_rdp": budget,
        "populations": populations,
    }


def _require_node(folder: Path) -> None:
    from primum.errors import InputError

    if not any((folder / name).exists() for name in ("identity.pem", "policy.toml", "ledger.sqlite")):
        raise InputError(
            f"{folder} is not the state folder of a node.", "Give the one that `primum node --state` has; node-state."
        )


def _ledger(path: Path, policy: "Policy") -> tuple[list["Entry"], dict[str, float]]:
    """All lines, and what is spent by population; nothing where no ledger was begun, and none is begun here."""
    import sqlite3

    from primum.dp.ledger import EVALUATION, TRAINING, Ledger
    from primum.errors import MachineError

    if not path.exists():
        return [], {TRAINING: 0.0, EVALUATION: 0.0}
    try:
        ledger = Ledger(path, policy.cap)
        return ledger.entries(), {name: ledger.spent(name) for name in (TRAINING, EVALUATION)}
    except sqlite3.DatabaseError as error:
        raise MachineError(f"{path} cannot be read: {error}.", "Is another program writing it? Try again.") from None


def _needed(study: "Study | None", policy: "Policy") -> dict[str, float]:
    from primum.dp import account
    from primum.dp.ledger import EVALUATION, TRAINING

    if study is None:
        return {}
    plan, _ = _planned(study)
    return {
        TRAINING: account.rdp(plan.training_steps(study.training.rounds), policy.rdp_order),
        EVALUATION: account.rdp(plan.evaluation_steps(plan.looks), policy.rdp_order),
    }


def _studies(entries: list["Entry"], policy: "Policy") -> list[dict[str, Any]]:
    runs: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        runs.setdefault((entry.study, entry.run), []).append(entry)
    return [
        {
            "study": name,
            "run": run,
            "steps": len(lines),
            "settled": sum(line.settled is not None for line in lines),
            "rdp": (total := math.fsum(line.reserved if line.settled is None else line.settled for line in lines)),
            "share": total / policy.cap.budget,
            "epsilon": _epsilon(total, policy),
        }
        for (name, run), lines in runs.items()
    ]


def _epsilon(divergence: float, policy: "Policy") -> float:
    from primum.dp.account import epsilon_of_rdp

    return epsilon_of_rdp(divergence, policy.rdp_order, policy.delta_max) if divergence else 0.0


def show_study(told: dict[str, Any]) -> None:
    """The figures of a study as a table, and other settings below."""
    unit = f"{'an' if told['unit'] == 'image' else 'a'} {told['unit']}"
    stood_in = " (none named yet: figures for three)" if told["hospitals_stood_in"] else ""
    click.echo(f"Study {told['name']}: {told['hospitals']} hospitals{stood_in}, {told['patients']:,} {told['unit']}s\n")
    rows = [
        (f"promised to each {told['unit']}", f"epsilon {told['epsilon']:g}, delta {told['delta']:g}"),
        ("rounds, share drawn in each", f"{told['rounds']}, {told['sampling']:g}"),
        *((("local steps in a round", f"{told['local_steps']}"),) if told["local_steps"] > 1 else ()),
        ("noise multiplier", f"{told['noise_multiplier']:.3f}"),
        (f"expected visits of {unit}", f"{told['expected_visits']:g}"),
        *((f"epsilon after {count} rounds", f"{spent:.2f}") for count, spent in told["epsilon_after"].items()),
        ("by Renyi divergence (looser)", f"{told['epsilon_by_rdp']:.2f}"),
        ("if all other hospitals collude", f"{told['epsilon_all_others_collude']:.2f}"),
        (f"{unit} replaced by another", f"{told['epsilon_replace']:.2f}"),
        *(
            (f"a patient of {count} image{'s' if count > 1 else ''}", f"{spent:.2f}")
            for count, spent in told["epsilon_patient"].items()
        ),
        (f"evaluation patients, {told['looks']} look(s)", f"{told['evaluation_epsilon']:.2f}"),
    ]
    for name, value in rows:
        click.echo(f"{name:36}{value}")
    if told["suggestions"]:
        click.echo(
            "\nOther settings at the same epsilon; signal: gradients over noise, in the whole study, 1 is yours\n"
        )
        click.echo(f"{'signal':>8}{'sampling':>10}{'rounds':>8}{'noise':>8}{'visits':>8}")
    for one in told["suggestions"]:
        click.echo(
            f"{one['signal']:>8.2f}{one['sampling']:>10.3g}{one['rounds']:>8}{one['noise_multiplier']:>8.2f}"
            f"{one['expected_visits']:>8.4g}"
        )


def show_node(told: dict[str, Any]) -> None:
    """What is left at a hospital, by population, and what its past studies took."""
    rules = "" if told["policy"] else " (no policy.toml: the defaults)"
    click.echo(
        f"\n{told['folder']}: at most epsilon {told['epsilon_cap']:g} at delta {told['delta']:g} for one patient, over all "
        f"studies, added up at Renyi order {told['rdp_order']}{rules}"
    )
    for name, one in told["populations"].items():
        click.echo(
            f"\n{name} patients: {one['left_share']:.0%} left; spent epsilon {one['spent_epsilon']:.2f} "
            f"(divergence {one['spent_rdp']:.4g} of {told['budget_rdp']:.4g})"
        )
        for past in one["studies"]:
            click.echo(
                f"  {past['study']:24} run {past['run'][:12]:12}  {past['steps']:5} steps  {past['share']:6.1%} of the cap"
                f"  epsilon {past['epsilon']:.2f} by itself"
            )
        if "fits" in one:
            verdict = "it fits" if one["fits"] else "it does NOT fit"
            click.echo(f"  this study needs {one['needed_rdp']:.4g}, {one['left_rdp']:.4g} is left: {verdict}")


def _plain(value: Any) -> Any:
    """The same for JSON, which has no infinity."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
