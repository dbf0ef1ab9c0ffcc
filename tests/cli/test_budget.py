"""`primum budget`: what a study will cost, what a hospital has left; and the page about it runs as it stands."""

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.command import run_command

from primum.cli import _group
from primum.dp import account
from primum.dp.account import Steps
from primum.dp.ledger import EVALUATION, TRAINING, Cap, Ledger
from primum.errors import InputError, MachineError, PrimumError, StudyError
from primum.federation.template import study_template
from primum.study import Study
from primum.tasks.plan import Plan, resolve

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "4-privacy-budget.md"
MEMBERS = [f"{place:064x}" for place in (1, 2, 3)]
QUICK = study_template(MEMBERS).replace("rounds = 40", "rounds = 8").replace("sampling = 0.5", "sampling = 1.0")
CAP = Cap(4.0, 1e-5, 8)


@pytest.fixture(autouse=True, scope="module")
def coarse() -> Iterator[None]:
    """Privacy losses on a wider grid: quicker, and still pessimistic."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account, "_INTERVAL", 2e-3)
        account.epsilon.cache_clear()
        yield
    account.epsilon.cache_clear()


def run(*arguments: object) -> str:
    done = CliRunner().invoke(_group, ["budget", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(QUICK)
    return path


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A hospital with two studies behind it, the second settled in part."""
    folder = tmp_path / "node-state"
    folder.mkdir()
    (folder / "policy.toml").write_text("epsilon_cap = 4.0\nrdp_order = 8\n")
    ledger = Ledger(folder / "ledger.sqlite", CAP)
    for number in (1, 2):
        ledger.reserve("pneumonia", "aa" * 16, number, TRAINING, 0.25)
    ledger.reserve("pneumonia", "aa" * 16, 3, EVALUATION, 0.5)
    ledger.reserve("fractures", "bb" * 16, 1, TRAINING, 0.75)
    ledger.settle("bb" * 16, 1, TRAINING, 0.5)
    return folder


def test_the_figures_of_a_study_are_those_of_the_accountant(study: Path) -> None:
    told = json.loads(run(study, "--json", "--no-suggest"))["study"]
    plan = Plan(resolve(Study.read(study)))
    whole, delta = plan.training_steps(8), plan.accounted_delta
    assert told["noise_multiplier"] == plan.training.noise_multiplier
    assert told["epsilon_after"] == {str(count): plan.epsilon_after(count) for count in (2, 4, 6, 8)}
    assert told["epsilon_after"]["8"] <= 3.0
    assert told["epsilon_all_others_collude"] == account.epsilon(plan.training_steps(8, honest=1), delta) > 3.0
    assert told["epsilon_replace"] == account.epsilon(whole, delta, replace=True) > 4.0
    assert told["epsilon_by_rdp"] == account.epsilon_by_rdp(whole, delta)
    assert (told["expected_visits"], told["epsilon_patient"], told["suggestions"]) == (8.0, {}, [])
    assert told["hospitals"] == 3 and not told["hospitals_stood_in"]


def test_the_table_has_every_figure(study: Path) -> None:
    shown = run(study, "--no-suggest")
    assert "3 hospitals, 379 patients" in shown
    for line in (
        r"epsilon 3, delta 1e-05",
        r"epsilon after 8 rounds +3\.00",
        r"visits of a patient +8\n",
        r"all other",
    ):
        assert re.search(line, shown), line
    assert "Other settings" not in shown


def test_other_settings_cost_the_same(study: Path) -> None:
    found = json.loads(run(study, "--json"))["study"]["suggestions"]
    plan = Plan(resolve(Study.read(study)))
    assert 2 <= len(found) <= 8
    for one in found[:2]:
        changed = QUICK.replace("rounds = 8", f"rounds = {one['rounds']}")
        changed = changed.replace("sampling = 1.0", f"sampling = {one['sampling']}")
        sigma = Plan(resolve(Study.parse(changed, "changed"))).training.noise_multiplier
        assert sigma <= one["noise_multiplier"] < 1.02 * sigma
        assert one["expected_visits"] == pytest.approx(one["sampling"] * one["rounds"])
        own = one["sampling"] / sigma * (one["rounds"] / 8) ** 0.5 * plan.training.noise_multiplier
        assert one["signal"] == pytest.approx(own, rel=0.02)


def test_with_images_as_units_a_patient_has_less(tmp_path: Path) -> None:
    path = tmp_path / "images.toml"
    path.write_text(QUICK.replace('unit = "patient"', 'unit = "image"\nimages_per_patient = 2'))
    shown = run(path, "--no-suggest")
    figures = dict(
        re.findall(r"^(epsilon after 8 rounds|a patient of 2 images|an image replaced) .*?([\d.]+)$", shown, re.M)
    )
    assert float(figures["epsilon after 8 rounds"]) == 3.0
    assert 1.5 < float(figures["a patient of 2 images"]) / 3.0 < 4
    assert "379 images" in shown and "promised to each image" in shown


def test_a_study_without_hospitals_is_shown_for_three(tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text(QUICK.replace(",\n".join(f'    "{m}"' for m in MEMBERS) + ",", ""))
    told = json.loads(run(path, "--json", "--no-suggest"))["study"]
    assert (told["hospitals"], told["hospitals_stood_in"]) == (3, True)
    assert "none named yet" in run(path, "--no-suggest")


def test_a_study_that_was_tampered_with_or_promises_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        QUICK.replace("epsilon = 3.0", "epsilon = 3.0\nnoise_multiplier = 0.5\nevaluation_noise_multiplier = 2.0")
    )
    with pytest.raises(StudyError, match="costs"):
        run(path)
    path.write_text(re.sub(r"\[privacy\].*?\[hospitals\]", "[hospitals]", QUICK, flags=re.DOTALL))
    with pytest.raises(StudyError, match=r"no \[privacy\] section"):
        run(path)


def test_what_is_left_at_a_hospital_by_population_with_past_studies(node: Path) -> None:
    told = json.loads(run("--node", node, "--json"))["node"]
    training, evaluation = told["populations"][TRAINING], told["populations"][EVALUATION]
    assert told["budget_rdp"] == pytest.approx(CAP.budget)
    assert training["spent_rdp"] == pytest.approx(1.0) and evaluation["spent_rdp"] == pytest.approx(0.5)
    assert training["left_rdp"] == pytest.approx(CAP.budget - 1.0)
    assert training["spent_epsilon"] == pytest.approx(account.epsilon_of_rdp(1.0, 8, 1e-5))
    past = {one["study"]: one for one in training["studies"]}
    assert (past["pneumonia"]["steps"], past["pneumonia"]["rdp"], past["pneumonia"]["settled"]) == (2, 0.5, 0)
    assert (past["fractures"]["steps"], past["fractures"]["rdp"], past["fractures"]["settled"]) == (1, 0.5, 1)
    shown = run("--node", node)
    assert "training patients: 64% left" in shown and "evaluation patients: 82% left" in shown
    assert re.search(r"pneumonia +run aaaaaaaaaaaa +2 steps", shown)


def test_looking_changes_nothing_and_begins_no_ledger(node: Path, tmp_path: Path) -> None:
    before = (node / "ledger.sqlite").read_bytes()
    run("--node", node)
    assert (node / "ledger.sqlite").read_bytes() == before
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "identity.pem").write_text("")
    told = json.loads(run("--node", empty, "--json"))["node"]
    assert not told["policy"] and told["populations"][TRAINING]["left_share"] == 1.0
    assert [path.name for path in empty.iterdir()] == ["identity.pem"]


def test_whether_a_study_still_fits(study: Path, node: Path) -> None:
    needed = account.rdp(Plan(resolve(Study.read(study))).training_steps(8), 8)
    told = json.loads(run(study, "--node", node, "--json", "--no-suggest"))
    training = told["node"]["populations"][TRAINING]
    assert training["needed_rdp"] == pytest.approx(needed) and not training["fits"]
    assert told["node"]["populations"][EVALUATION]["fits"]
    shown = run(study, "--node", node, "--no-suggest")
    assert "it does NOT fit" in shown and "it fits" in shown


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--node", "nowhere"], InputError),
        (["gone.toml"], StudyError),
        ([], InputError),
        (["--node", "broken"], MachineError),
        (["--node", "other"], InputError),
    ],
)
def test_mistakes_are_said_in_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], error: type[PrimumError]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("broken", "other"):
        Path(name).mkdir()
    Path("broken/ledger.sqlite").write_bytes(b"this is no database, whatever its name is" * 30)
    Ledger(Path("other/ledger.sqlite"), Cap(4.0, 1e-5, 16))
    with pytest.raises(error) as caught:
        run(*arguments)
    assert caught.value.message and caught.value.hint


def test_as_its_users_run_it() -> None:
    ended = run_command("budget")
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("Error: Neither a study nor a node") and len(ended.stderr.splitlines()) == 2


def test_every_command_of_the_page_runs(tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    primum (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        if Path("study.toml").exists():
            Path("study.toml").write_text(QUICK)  # fewer rounds: quicker
        done = CliRunner().invoke(_group, shlex.split(command))
        assert done.exit_code == 0 and done.output, command


def test_every_example_of_the_page_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    wanted = re.findall(r"^# (epsilon .*)$", code, flags=re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names: dict[str, Any] = {}
        exec(compile(code, str(PAGE), "exec"), names)
    assert printed.getvalue().splitlines() == wanted
    charged = Ledger(tmp_path / "ledger.sqlite", Cap(5.0, 1e-5, 8)).spent(TRAINING)
    assert charged == pytest.approx(account.rdp(Steps(1, 0.1, names["accountant"].noise_multiplier), 8))
