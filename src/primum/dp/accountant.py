"""One study's account, for a training loop of one's own: finds the noise, charges each step before it happens.

The accountant and the sampler are one thing in effect: `PoissonSampler` charges the accountant before it draws, and the
accountant hands out no step that the budget does not cover. Neighbours: add or remove one unit (a patient, or an image).

| symbol | what |
|---|---|
| q | `sampling`: every unit is in a step with this probability, independently |
| sigma | `noise_multiplier`: standard deviation of the noise in the sum, in clipping norms, as the accountant takes it |
| T | `steps`: how many there are in all, fixed before the first |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dp_accounting

from primum.dp import account
from primum.dp.account import Budget, Steps
from primum.dp.ledger import TRAINING, Cap, Ledger
from primum.errors import BudgetError, InputError, StudyError

_MOST_STEPS: Final = 100_000  # where only the noise is given
_UNLIMITED: Final = "unlimited"


@dataclass(frozen=True)
class LedgerPage:
    """One run of one study in a hospital's ledger: several studies, one cap. The ledger's order adds them up.

    `run` names the run for ever: after a restart the same name finds what it was charged.
    """

    path: Path
    cap: Cap
    study: str
    run: str
    population: str = TRAINING

    def charged(self) -> int:
        """Steps of this run that were charged."""
        mine = [line for line in self._ledger().entries() if (line.run, line.population) == (self.run, self.population)]
        return max((line.round for line in mine), default=0)

    def require(self, steps: Steps) -> None:
        """BudgetError unless all of `steps` fit under the cap; nothing is written."""
        self._ledger().require(self.population, account.rdp(steps, self.cap.order))

    def reserve(self, number: int, step: Steps) -> None:
        """Write step `number` down; BudgetError, and nothing written, where it does not fit or was charged before."""
        self._ledger().reserve(self.study, self.run, number, self.population, account.rdp(step, self.cap.order))

    def _ledger(self) -> Ledger:
        return Ledger(self.path, self.cap)


class Accountant:
    """What a study may still do, and what it has cost. Never copied: two copies would spend one budget twice.

    Give `steps`, and the noise is the smallest that keeps the budget (to 0.1 %); or `noise_multiplier`, and `steps` is
    as many as the budget covers; or both, which is refused where they cost more than the budget.
    `dimension` is the number of weights: the distance between integer noise and the Gaussian is charged to delta for
    each. Make the `Mechanism` with `mechanism.multiplier_for(accountant.noise_multiplier)`, clipped to C and with
    sensitivity C: the accountant cannot see whether that is so.
    To look for mistakes: `Budget(math.inf, delta)` without noise, or `noise_multiplier=0`. Every figure is then
    infinite, and steps are counted all the same; a `ledger` refuses such steps.
    InputError for a value out of range, StudyError where no noise is enough, BudgetError where the budget is too small.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        sampling: float,
        dimension: int,
        steps: int | None = None,
        noise_multiplier: float | None = None,
        hospitals: int = 1,
        images_per_patient: int = 1,
        ledger: LedgerPage | None = None,
    ) -> None:
        self._charged = 0
        _check(budget, sampling, steps, dimension, noise_multiplier, hospitals, images_per_patient)
        self._budget, self._sampling, self._dimension = budget, float(sampling), int(dimension)
        self._hospitals, self._images, self._page = int(hospitals), int(images_per_patient), ledger
        self._steps = int(steps) if steps is not None else _MOST_STEPS
        self._sigma = self._calibrated() if noise_multiplier is None else float(noise_multiplier)
        if steps is None:
            self._steps = self._affordable()
        elif noise_multiplier:
            self._require()
        self._known: dict[int, float] = {}
        self._charged = self._in_ledger()
        if ledger and self.private:
            ledger.require(self._of(self.left))

    def __repr__(self) -> str:
        promise = f"epsilon {self._budget.epsilon:g} at delta {self._budget.delta:g}" if self.private else "NO PRIVACY"
        return f"Accountant({promise}, {self._charged} of {self._steps} steps, noise {self._sigma:.4g})"

    def __reduce__(self) -> str:
        raise TypeError("an accountant is never copied or sent: both would spend the budget; use state() and restore()")

    @property
    def budget(self) -> Budget:
        """What may be spent in all."""
        return self._budget

    @property
    def sampling(self) -> float:
        """q."""
        return self._sampling

    @property
    def steps(self) -> int:
        """T: how many steps there are in all."""
        return self._steps

    @property
    def noise_multiplier(self) -> float:
        """sigma, as the accountant takes it; integer noise needs a hair more: `Mechanism.multiplier_for`."""
        return self._sigma

    @property
    def dimension(self) -> int:
        """For how many coordinates a step it was made."""
        return self._dimension

    @property
    def charged(self) -> int:
        """Steps charged so far."""
        return self._charged

    @property
    def left(self) -> int:
        """Steps that may still be charged."""
        return self._steps - self._charged

    @property
    def private(self) -> bool:
        """False without noise: then nothing is promised."""
        return self._sigma > 0

    def charge(self) -> None:
        """Count one step, before anything of it is computed. BudgetError, and nothing counted, if it is one too many."""
        if self._charged >= self._steps:
            raise BudgetError(
                f"All {self._steps} steps that epsilon {self._budget.epsilon:g} at delta {self._budget.delta:g} was "
                "divided among are charged.",
                "Train for fewer steps, or plan more of them with more noise before the first step.",
            )
        if self._page:
            self._page.reserve(self._charged + 1, self._of(1))
        self._charged += 1

    def epsilon(self, steps: int | None = None) -> float:
        """epsilon at the budget's delta after `steps` steps (so far, if not said); never above the budget.

        The smaller of two valid figures, by privacy loss distributions and by Renyi divergence; what is charged to
        delta (`account.delta_overheads`) is taken off first. More steps never give less. About 0.3 s the first time.
        """
        count = self._charged if steps is None else steps
        if not 0 <= count <= self._steps:
            raise InputError(f"epsilon of {count} steps was asked for.", f"This study has 0 to {self._steps}.")
        if count not in self._known:
            value = self._figure(lambda delta: self._smaller(self._of(count), delta))
            above = [spent for known, spent in self._known.items() if known > count]
            below = [spent for known, spent in self._known.items() if known < count]
            # a part of a study costs no more than the whole, and figures are rounded up by different hairs
            self._known[count] = max([min([value, self._most(), *above]), *below])
        return self._known[count]

    def epsilon_by_rdp(self) -> float:
        """The second opinion on what was charged so far: dp_accounting's Renyi accountant."""
        steps = self._of(self._charged)
        return self._figure(lambda delta: account.epsilon_by_rdp(steps, delta))

    def replace_epsilon(self) -> float:
        """The figure so far where neighbours replace a unit by another one: about twice as large."""
        steps = self._of(self._charged)
        return self._figure(lambda delta: account.epsilon(steps, delta, replace=True))

    def patient_epsilon(self) -> float:
        """The figure so far for a whole patient of `images_per_patient` images, where the unit is the image."""
        steps = self._of(self._charged)
        if self._images == 1:
            return self.epsilon()
        return self._figure(lambda delta: account.patient_epsilon(steps, delta, self._images))

    def events(self) -> dp_accounting.DpEvent:
        """What was charged so far, for another accountant to replay."""
        return account.event(self._of(self._charged))

    def state(self) -> dict[str, Any]:
        """What must not be forgotten over a restart; plain values for JSON."""
        return {**self._settings(), "charged": self._charged}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what an earlier process had spent: the larger of its steps, these and the ledger's.

        InputError that names the setting where `state` is of another study. What was charged after the state was saved
        is only known with a ledger: save the state before a step's weights are shown to anybody.
        """
        if not isinstance(state, dict):
            raise InputError(f"The saved state is {state!r}.", "Give what state() had returned.")
        for name, value in self._settings().items():
            if name not in state or state[name] != value:
                raise InputError(
                    f"The saved state has {name} = {state.get(name)!r}, this accountant {value!r}.",
                    f"Make the accountant with what the study began with: {name} = {state.get(name)!r}.",
                )
        charged = state.get("charged")
        if not isinstance(charged, int) or isinstance(charged, bool) or not 0 <= charged <= self._steps:
            raise InputError(f"The saved state has charged = {charged!r}.", f"0 to {self._steps} is possible.")
        self._charged = max(self._charged, charged, self._in_ledger())

    def _settings(self) -> dict[str, Any]:
        epsilon = self._budget.epsilon
        return {
            "epsilon": _UNLIMITED if math.isinf(epsilon) else epsilon,
            "delta": self._budget.delta,
            "sampling": self._sampling,
            "dimension": self._dimension,
            "hospitals": self._hospitals,
            "images_per_patient": self._images,
            "steps": self._steps,
            "noise_multiplier": self._sigma,
            "run": self._page.run if self._page else None,
        }

    def _in_ledger(self) -> int:
        return min(self._page.charged(), self._steps) if self._page else 0

    def _of(self, count: int) -> Steps:
        return Steps(count, self._sampling, self._sigma)

    def _most(self) -> float:
        return self._budget.epsilon if self.private else math.inf

    def _smaller(self, steps: Steps, delta: float) -> float:
        return min(account.epsilon(steps, delta), account.epsilon_by_rdp(steps, delta))

    def _overheads(self, epsilon: float) -> float:
        return account.delta_overheads(epsilon, self._dimension, self._steps, self._hospitals)

    @property
    def _kept_back(self) -> float:
        """Of delta, for the overheads at the budget's epsilon."""
        return self._overheads(self._budget.epsilon)

    def _figure(self, cost: Callable[[float], float]) -> float:
        """`cost` at delta less the overheads, which themselves depend on the figure."""
        if not self.private:
            return math.inf
        delta = self._budget.delta
        planned = [self._kept_back] if math.isfinite(self._budget.epsilon) else []
        for kept_back in (*planned, delta / 100, delta / 2):
            if kept_back >= delta:
                continue
            value = cost(delta - kept_back)
            if self._overheads(value) <= kept_back:
                return value
        return math.inf

    def _accounted(self) -> Budget:
        left = self._budget.delta - self._kept_back
        if left <= 0:
            raise StudyError(
                f"At epsilon {self._budget.epsilon:g}, {self._steps} steps of {self._dimension:,} weights leave nothing "
                f"of delta {self._budget.delta:g}.",
                "Use a smaller epsilon, fewer steps or a smaller model.",
            )
        return Budget(self._budget.epsilon, left)

    def _calibrated(self) -> float:
        if math.isinf(self._budget.epsilon):
            return 0.0
        return account.calibrate(self._accounted(), self._steps, self._sampling)

    def _affordable(self) -> int:
        if not self.private or math.isinf(self._budget.epsilon):
            raise InputError(
                "How many steps there are follows neither from the noise nor from the budget.", "Give steps as well."
            )
        most = account.steps_within(self._accounted(), self._sampling, self._sigma, _MOST_STEPS)
        if most == 0:
            raise BudgetError(
                f"One step with noise multiplier {self._sigma:g} costs more than epsilon {self._budget.epsilon:g}.",
                "Use more noise, a smaller sampling rate, or a larger epsilon.",
            )
        return most

    def _require(self) -> None:
        if math.isinf(self._budget.epsilon):
            return
        whole = self._of(self._steps)
        if self._figure(lambda delta: account.epsilon_by_rdp(whole, delta)) <= self._budget.epsilon:
            return  # the quick one first; also of what is far below a budget whose overheads would leave nothing of delta
        budget = self._accounted()
        if account.epsilon(whole, budget.delta) <= budget.epsilon:
            return
        fit = account.steps_within(budget, self._sampling, self._sigma, self._steps)
        raise BudgetError(
            f"{self._steps} steps with noise multiplier {self._sigma:g} cost more than epsilon {budget.epsilon:g}.",
            f"{fit} steps fit; or leave noise_multiplier out, and it is found.",
        )


def _check(
    budget: Budget,
    sampling: float,
    steps: int | None,
    dimension: int,
    noise_multiplier: float | None,
    hospitals: int,
    images_per_patient: int,
) -> None:
    rules: tuple[tuple[bool, str], ...] = (
        (budget.epsilon > 0, f"epsilon = {budget.epsilon}; it must be above 0"),
        (0 < budget.delta < 1, f"delta = {budget.delta}; it must be above 0 and far below 1 / (number of units)"),
        (0 < sampling <= 1, f"sampling = {sampling}; it must be above 0 and at most 1"),
        (steps is None or steps >= 1, f"steps = {steps}; it must be at least 1"),
        (steps is not None or noise_multiplier is not None, "neither steps nor noise_multiplier; give one of them"),
        (dimension >= 1, f"dimension = {dimension}; it is the number of weights, at least 1"),
        (
            noise_multiplier is None or 0 <= noise_multiplier < math.inf,
            f"noise_multiplier = {noise_multiplier}; it must be 0 (no privacy) or more",
        ),
        (hospitals >= 1, f"hospitals = {hospitals}; it must be at least 1"),
        (images_per_patient >= 1, f"images_per_patient = {images_per_patient}; it must be at least 1"),
    )
    for right, message in rules:
        if not right:
            raise InputError(f"An accountant was asked for with {message}.", "Mend that value.")
