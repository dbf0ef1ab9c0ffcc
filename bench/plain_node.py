"""A node of the benchmark that sends its clipped gradient in clear: what Primum is compared with, never part of it."""

import time
from pathlib import Path

import click
import numpy as np

from primum.federation.enrolment import JoinFile
from primum.federation.messages import Done, Order, Reply, RoundOrder, StudyOrder, VectorAnswer
from primum.federation.node import NodeState, ResidentNode
from primum.federation.records import wait_briefly
from primum.secagg import MaskedVector, Signed
from primum.study import Study
from primum.tasks.learner import Learner
from primum.tasks.plan import Plan


class PlainNode(ResidentNode):
    """The same transport, signatures and gradient; no consent, ledger, noise or mask."""

    learner: Learner

    def _carry_out(self, order: Order) -> Reply:
        if isinstance(order, StudyOrder):
            plan = Plan(Study.parse(order.study.text, "the study"))
            self.learner = Learner(plan, self.images.cohorts(plan, 0.15).training)
        if not isinstance(order, RoundOrder):
            return Done(order.run)
        began = time.monotonic()
        gradient = self.learner.gradient(np.frombuffer(order.weights, "<f4").astype(np.float32))
        nobody = Signed(b"", b"", b"")
        vector = MaskedVector(nobody, memoryview(gradient.astype("<f4").tobytes()))
        return VectorAnswer(vector, time.monotonic() - began, nobody)


@click.command()
@click.option("--join", "join_file", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path))
@click.option("--state", type=click.Path(path_type=Path))
@click.option("--patient")
def main(join_file: Path, data: Path, state: Path, patient: str) -> None:
    """As `primum node`; the pattern is in node.toml already."""
    wait_briefly()
    PlainNode(NodeState.open(state), JoinFile.read(join_file), data, click.echo).run()


if __name__ == "__main__":
    main()
