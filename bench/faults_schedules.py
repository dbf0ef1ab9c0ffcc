"""Random schedules of joining, vanishing, restarting, replaying, reordering, corrupting and lying on secure aggregation.

The machine of tests/secagg/test_state_machine.py, which asserts after every step that a sum is exact and a refusal named.
"""

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.secagg.test_state_machine import MODELS, Schedule

STEPS = 14


def schedules(count: int, say: Callable[[str], None]) -> dict[str, int]:
    """How many of `count` schedules held (it stops at the first that does not), and what they were made of."""
    figures = {"schedules": 0, "exact_sums": 0, "refusals": 0}

    class Counted(Schedule):
        @rule(late=st.sets(st.integers(1, 6), max_size=1), seed=st.integers(0, 2**32 - 1))
        def join(self, late: set[int], seed: int) -> None:
            """Everybody joins, and one round in which at most one is late: else hardly a sum would come out."""
            self.begin(absent=set(), reverse=False)
            if self.ready:
                self.attempt(model=MODELS[0], silent=(late, set(), set()), seed=seed)

        def tell(self, call: str, *arguments: object) -> object:
            answer = super().tell(call, *arguments)
            figures["exact_sums"] += call == "finish" and answer is not None
            figures["refusals"] += answer is None and call != "take_offer"
            return answer

        def ask(self, call: str, place: int, *arguments: object) -> object:
            answer = super().ask(call, place, *arguments)
            figures["refusals"] += answer is None
            return answer

        def teardown(self) -> None:
            figures["schedules"] += 1
            if figures["schedules"] % 100 == 0:
                say(
                    f"{figures['schedules']} schedules: {figures['exact_sums']} exact sums, {figures['refusals']} refusals"
                )

    rules = settings(
        max_examples=count,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    seed(1)(Counted)
    while figures["schedules"] < count:
        run_state_machine_as_test(Counted, settings=rules)
    return figures
