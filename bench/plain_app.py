"""The server program of the benchmark's plain rounds, on the same Grid."""

import json
import os
import time
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from primum.federation.exchange import GridExchange
from primum.federation.messages import Order, RoundOrder, StudyOrder, UnmaskOrder, VectorAnswer
from primum.federation.records import wait_briefly
from primum.federation.runs import Run
from primum.federation.server_app import exchange_over
from primum.keys.identity import Identity
from primum.secagg import Signed
from primum.study import Study
from primum.tasks.plan import Plan

app = ServerApp()
client = ClientApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Plain rounds with two exchanges, then with one; seconds into plain.json."""
    wait_briefly()
    state = Path(os.environ["PRIMUM_STATE"])
    run = Run(state / "runs" / str(context.run_config["run"]))
    study = Study.parse(run.signed_study().text, "the study")
    plan, members = Plan(study), study.hospitals.identities()
    identity = Identity.load_or_make(state / "identity.pem")
    with exchange_over(grid, state, identity, run, members, print) as exchange:
        seconds = play(exchange, run, plan, len(members))
    (run.folder / "plain.json").write_text(json.dumps(seconds))


def play(exchange: GridExchange, run: Run, plan: Plan, members: int) -> dict[str, list[float]]:
    """Seconds of the rounds with two exchanges and with one, and of the local work."""
    places, token, nobody = range(1, members + 1), run.token, Signed(b"", b"", b"")
    exchange(dict.fromkeys(places, StudyOrder(token, run.signed_study())), 60)
    weights = np.zeros(plan.dimension, "<f4")
    seconds: dict[str, list[float]] = {"two": [], "one": [], "local": []}
    for kind in ("two", "one"):
        for _ in range(plan.study.training.rounds):
            began = time.monotonic()
            order: Order = RoundOrder(token, "train", weights.tobytes(), nobody, (), nobody)
            answers = [
                r for r in exchange(dict.fromkeys(places, order), 60).by_place.values() if isinstance(r, VectorAnswer)
            ]
            total = sum(np.frombuffer(answer.vector.vector, "<f4") for answer in answers)
            weights = (weights - total / 100).astype("<f4")
            if kind == "two":
                exchange(dict.fromkeys(places, UnmaskOrder(token, nobody)), 60)
                seconds["local"].append(max(answer.local_seconds for answer in answers))
            seconds[kind].append(time.monotonic() - began)
    return seconds
