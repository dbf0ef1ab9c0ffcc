"""Rounds of Flower's SecAgg+ in this process, with the CPU time of a node and that of the server kept apart.

All computing is Flower's own: the nodes are `ClientApp`s with `secaggplus_mod`, their replies go out through the
`push_message` of `flwr-clientapp`, the server runs the four stages of `SecAggPlusWorkflow` over `HttpGrid`. Only the
HTTP client below these is replaced, by one that keeps the serialised requests in a dictionary. Not counted: HTTP, TLS,
and what SuperLink and SuperNode add when they relay. The server sends an empty model and its strategy takes the mean
that the workflow made; `FedAvg` would average ten equal copies of it.

Arrays and messages of 90 MB that are made and freed many times cost more in page faults than in arithmetic, and how
much depends on the machine. So a measuring process keeps its memory (`ENVIRONMENT`); what is compared with it must run
in the same environment.

    python -m bench.flower_secagg 100000 11200000

prints two lines of JSON (`Cost`) for each length: nobody vanishes, one node vanishes before its masked vector.
"""

import dataclasses
import json
import logging
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import FitRes, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.common.serde import message_to_proto
from flwr.compat.client.client import Client
from flwr.compat.client.numpy_client import NumPyClient
from flwr.compat.common import recorddict_compat
from flwr.proto import message_pb2, runtime_pb2
from flwr.proto.node_pb2 import Node
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.runtime.run_clientapp import push_message

from primum.rng import Stream

RING_BITS = 24
CLIP = 1.0
_RUN = 1
_FIRST_NODE = 1 << 62  # Flower's node numbers are large and random
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
KEEP_MEMORY = {  # glibc: never give memory back, so that no page is faulted in twice
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 36),
}
ENVIRONMENT = ONE_THREAD | KEEP_MEMORY
_REPOSITORY = Path(__file__).resolve().parent.parent
_SERVER, _LINK = 0, -1

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cost:
    """What one round costs: CPU seconds, the least of all rounds by stage; a node's are the median of those included.

    `node_s` is from the float32 vector to serialised requests, all stages. Of it, `node_reply_s` goes into Flower's
    serialising of the replies (it makes and hashes the same bytes several times), where protobuf needs
    `node_one_reply_s` (not in `node_s`). Of `server_s`, `server_messages_s` goes into writing and reading messages.
    `bytes_sent` are one node's serialised requests. `peak_bytes` is what its memory grows by, above the vector, while
    it makes and sends the masked vector: None where the system cannot say, and right only in a process that gives
    memory back (`measured`). `largest_error` is that of the mean, in quantisation steps; `correct` says whether
    stochastic rounding explains it.
    """

    nodes: int
    length: int
    threshold: int
    vanished: int
    ring_bits: int
    quantization_range: int
    rounds: int
    node_s: float
    node_stage_s: dict[str, float]
    node_reply_s: float
    node_one_reply_s: float
    server_s: float
    server_stage_s: dict[str, float]
    server_messages_s: float
    bytes_sent: int
    bytes_stage: dict[str, int]
    peak_bytes: int | None
    largest_error: float
    correct: bool


@dataclass
class Ledger:
    """CPU seconds of this process (all its threads), each charged to one (who, stage, work); bytes by (node, stage)."""

    stage: str = Stage.SETUP
    seconds: dict[tuple[int, str, str], float] = field(default_factory=lambda: defaultdict(float))
    sent: dict[tuple[int, str], int] = field(default_factory=dict)
    peak: int | None = None
    _payer: tuple[int, str] = (_LINK, "")
    _since: float = field(default_factory=time.process_time)

    @contextmanager
    def charged_to(self, who: int, work: str) -> Iterator[None]:
        """Whoever paid before pays again afterwards."""
        before = self._payer
        self._switch((who, work))
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, payer: tuple[int, str]) -> None:
        now = time.process_time()
        who, work = self._payer
        self.seconds[who, self.stage, work] += now - self._since
        self._payer, self._since = payer, now

    def of(self, who: int, stage: str, *works: str) -> float:
        """Seconds of `who` in a stage, of some works or of all."""
        return sum(s for (w, st, work), s in self.seconds.items() if (w, st) == (who, stage) and work in works)


class Requests:
    """In place of `RuntimeHttpClient`: requests are serialised and kept, objects are parsed from serialised answers."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.message = b""
        self.objects: dict[str, bytes] = {}
        self.answers = answers

    def PushMessages(self, request: runtime_pb2.PushAppMessagesRequest) -> runtime_pb2.PushAppMessagesResponse:
        """Asks for every object."""
        self.message, self.objects = request.SerializeToString(), {}
        wanted = {tree.object_id for root in request.message_object_trees for tree in iterate_object_tree(root)}
        ids = [message.metadata.message_id for message in request.messages_list]
        return runtime_pb2.PushAppMessagesResponse(message_ids=ids, objects_to_push=sorted(wanted))

    def PushObject(self, request: message_pb2.PushObjectRequest) -> message_pb2.PushObjectResponse:
        self.objects[request.object_id] = request.SerializeToString()
        return message_pb2.PushObjectResponse(stored=True)

    def PullObject(self, request: message_pb2.PullObjectRequest) -> message_pb2.PullObjectResponse:
        return message_pb2.PullObjectResponse.FromString(self.answers[request.object_id])

    def ConfirmMessageReceived(
        self, request: message_pb2.ConfirmMessageReceivedRequest
    ) -> message_pb2.ConfirmMessageReceivedResponse:
        return message_pb2.ConfirmMessageReceivedResponse()

    def size(self) -> int:
        """Bytes of what was pushed."""
        return len(self.message) + sum(map(len, self.objects.values()))

    def relay(self) -> dict[str, bytes]:
        """The pushed objects as answers for whoever pulls them; they are no longer kept here."""
        relayed = {}
        while self.objects:
            name, request = self.objects.popitem()
            content = message_pb2.PushObjectRequest.FromString(request).object_content
            answer = message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)
            relayed[name] = answer.SerializeToString()
        return relayed


class _Training(NumPyClient):
    """Training that is done: its result is the vector, with the greatest weight, so that every node counts alike."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        return [self.vector], 1, {}


class Hospital:
    """One node: a ClientApp with Flower's mod, and its context."""

    def __init__(self, number: int, vector: Vector, ledger: Ledger) -> None:
        self.number, self.vector, self.ledger = number, vector, ledger
        self.context = Context(_RUN, number, {}, RecordDict(), {})
        self.app = ClientApp(self._client, mods=[secaggplus_mod])

    def _client(self, context: Context) -> Client:
        return _Training(self.vector).to_client()

    def answer(self, tree: message_pb2.ObjectTree, requests: Requests, weigh: bool) -> None:
        """What `flwr-clientapp` does with a message; `weigh` also takes the memory it needs."""
        ledger = self.ledger
        before = _memory("VmRSS", reset=True) if weigh else None
        with ledger.charged_to(self.number, "protocol"):
            reply = self.app(message=self._read(tree, requests), context=self.context)
        with ledger.charged_to(self.number, "reply"):
            push_message(requests, reply, self.context)
        if before is not None:
            ledger.peak = max(ledger.peak or 0, (_memory("VmHWM") or 0) - before)
        with ledger.charged_to(self.number, "one reply"):
            message_to_proto(reply).SerializeToString()
        ledger.sent[self.number, ledger.stage] = requests.size()

    def vanish(self, tree: message_pb2.ObjectTree, requests: Requests) -> None:
        """The error that SuperLink puts in place of an answer."""
        error = Error(ErrorCode.NODE_UNAVAILABLE, "vanished")
        push_message(requests, Message(error, reply_to=self._read(tree, requests)), self.context)

    def _read(self, tree: message_pb2.ObjectTree, requests: Requests) -> Message:
        node = Node(node_id=self.number)
        pull = make_pull_object_fn_protobuf(requests.PullObject, node, _RUN)
        confirm = make_confirm_message_received_fn_protobuf(requests.ConfirmMessageReceived, node, _RUN)
        message = pull_and_inflate_object_from_tree(tree, pull, confirm, return_type=Message)
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message


class Link(Requests):
    """The server's requests; what it pushes is answered by the nodes as soon as it pulls."""

    def __init__(self, hospitals: dict[int, Hospital], vanishing: int | None, ledger: Ledger) -> None:
        super().__init__({})
        self.hospitals, self.vanishing, self.ledger = hospitals, vanishing, ledger

    def PullMessages(self, request: runtime_pb2.PullAppMessagesRequest) -> runtime_pb2.PullAppMessagesResponse:
        """All answers at once; objects of the stage before are forgotten."""
        with self.ledger.charged_to(_LINK, ""):
            pushed, objects = runtime_pb2.PushAppMessagesRequest.FromString(self.message), self.relay()
            self.answers = {}
            response = runtime_pb2.PullAppMessagesResponse()
            for message, tree in zip(pushed.messages_list, pushed.message_object_trees, strict=True):
                replies = Requests(objects)
                self._ask(message.metadata.dst_node_id, tree, replies)
                answered = runtime_pb2.PushAppMessagesRequest.FromString(replies.message)
                response.messages_list.extend(answered.messages_list)
                response.message_object_trees.extend(answered.message_object_trees)
                self.answers.update(replies.relay())
        return response

    def _ask(self, number: int, tree: message_pb2.ObjectTree, replies: Requests) -> None:
        collecting = self.ledger.stage == Stage.COLLECT_MASKED_VECTORS
        if collecting and number == self.vanishing:
            self.hospitals[number].vanish(tree, replies)
        else:
            self.hospitals[number].answer(tree, replies, weigh=collecting and number == _FIRST_NODE)


class _Grid(HttpGrid):
    """Flower's grid over a link instead of HTTP."""

    def __init__(self, link: Link) -> None:
        super().__init__(token="none")
        self._client, self._link = link, link
        self.set_run(Run.create_empty(_RUN))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        with self._link.ledger.charged_to(_SERVER, "messages"):
            return super().send_and_receive(messages, timeout=timeout)


class _TheMean(FedAvg):
    """Every result is the mean already: the workflow puts the same one in all of them."""

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: list[Any]
    ) -> tuple[Any, dict[str, Any]]:
        return results[0][1].parameters, {}


def run(nodes: int, length: int, threshold: int, vanished: int = 0, rounds: int = 3) -> Cost:
    """`rounds` rounds of one federation with float32 vectors [length] in [-1, 1); the last node may vanish.

    Every node is everybody's neighbour. The ring has 24 bits; the quantisation range is the largest power of two that
    lets the sum fit. Memory: about 5 * nodes * 8 * length bytes.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, SUPERLINK_NODE_ID, 1
    workflow = SecAggPlusWorkflow(
        nodes, threshold, max_weight=1.0, clipping_range=CLIP,
        quantization_range=1 << (RING_BITS - nodes.bit_length()), modulus_range=1 << RING_BITS,
    )  # fmt: skip
    vectors = {_FIRST_NODE + place: _vector(place, length) for place in range(nodes)}
    included = [number for number in vectors if not vanished or number != _FIRST_NODE + nodes - 1]
    wanted = np.zeros(length)
    for number in included:
        wanted += vectors[number]
    wanted /= len(included)
    hospitals = {number: Hospital(number, vector, Ledger()) for number, vector in vectors.items()}
    vanishing = _FIRST_NODE + nodes - 1 if vanished else None
    ledgers, errors = [], []
    for number in range(1, rounds + 1):
        ledger, mean = _round(number, workflow, hospitals, vanishing)
        ledgers.append(ledger)
        errors.append(float(np.abs(mean - wanted).max()) * workflow.quantization_range / (2 * CLIP))
    return _cost(workflow, length, vanished, ledgers, included, max(errors))


def _vector(place: int, length: int) -> Vector:
    return (2 * Stream.public(f"flower bench {place}").uniform(length) - 1).astype(np.float32)


def _round(
    number: int, workflow: SecAggPlusWorkflow, hospitals: dict[int, Hospital], vanishing: int | None
) -> tuple[Ledger, npt.NDArray[np.float64]]:
    ledger = Ledger()
    for hospital in hospitals.values():
        hospital.ledger = ledger
    grid = _Grid(Link(hospitals, vanishing, ledger))
    context, state = _server_context(number, list(hospitals), grid), WorkflowState()
    for stage in Stage.all():
        ledger.stage = stage
        with ledger.charged_to(_SERVER, "protocol"):
            went_on = getattr(workflow, f"{stage}_stage")(grid, context, state)
        if not went_on:
            raise SystemExit(f"Flower's SecAgg+ stopped in the stage {stage}.")
    record = context.state.array_records[MAIN_PARAMS_RECORD]
    return ledger, parameters_to_ndarrays(recorddict_compat.arrayrecord_to_parameters(record, keep_input=True))[0]


def _server_context(number: int, hospitals: list[int], grid: _Grid) -> LegacyContext:
    count, manager = len(hospitals), SimpleClientManager()
    for hospital in hospitals:
        manager.register(GridClientProxy(hospital, grid, _RUN))
    empty = recorddict_compat.parameters_to_arrayrecord(ndarrays_to_parameters([np.zeros(0)]), keep_input=True)
    records: dict[str, ArrayRecord | ConfigRecord] = {
        MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: number}),
        MAIN_PARAMS_RECORD: empty,
    }
    strategy = _TheMean(min_fit_clients=count, min_available_clients=count)
    own = Context(_RUN, SUPERLINK_NODE_ID, {}, RecordDict(records), {})
    return LegacyContext(own, strategy=strategy, client_manager=manager)


def _cost(
    workflow: SecAggPlusWorkflow, length: int, vanished: int, ledgers: list[Ledger], included: list[int], error: float
) -> Cost:
    def node(stage: str, *works: str) -> float:
        return min(median(ledger.of(number, stage, *works) for number in included) for ledger in ledgers)

    def server(stage: str, *works: str) -> float:
        return min(ledger.of(_SERVER, stage, *works) for ledger in ledgers)

    stages = Stage.all()
    node_stage = {stage: node(stage, "protocol", "reply") for stage in stages}
    server_stage = {stage: server(stage, "protocol", "messages") for stage in stages}
    sent = {stage: max(ledger.sent[number, stage] for ledger in ledgers for number in included) for stage in stages}
    return Cost(
        workflow.num_shares, length, workflow.reconstruction_threshold, vanished, RING_BITS,
        workflow.quantization_range, len(ledgers),
        sum(node_stage.values()), node_stage,
        sum(node(stage, "reply") for stage in stages), sum(node(stage, "one reply") for stage in stages),
        sum(server_stage.values()), server_stage, sum(server(stage, "messages") for stage in stages),
        sum(sent.values()), sent, max((ledger.peak for ledger in ledgers if ledger.peak), default=None),
        # every node rounds by less than one step; float32 adds less than a tenth
        error, error < 1.1,
    )  # fmt: skip


def _memory(line: str, reset: bool = False) -> int | None:
    """Bytes in a line of /proc/self/status; `reset` first forgets the peak. None where there is no such file."""
    status, forget = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return None
    if reset:
        forget.write_text("5")
    return 1024 * next(int(text.split()[1]) for text in status.read_text().splitlines() if text.startswith(line))


def measured(nodes: int, length: int, threshold: int, vanished: int = 0, rounds: int = 3) -> Cost:
    """`run` in a process of its own, in `ENVIRONMENT`; CalledProcessError if it fails.

    The peak comes from a second process that gives memory back as usual, with three nodes: it does not depend on them.
    """
    cost = _in_own_process(ENVIRONMENT, nodes, length, threshold, vanished, rounds)
    small = _in_own_process(ONE_THREAD, 3, length, 2, 0, 1)
    return dataclasses.replace(cost, peak_bytes=small.peak_bytes)


def _in_own_process(environment: dict[str, str], *chosen: int) -> Cost:
    command = [sys.executable, "-m", "bench.flower_secagg", "--here", *map(str, chosen)]
    kept = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY}
    done = subprocess.run(
        command, env=kept | environment, cwd=_REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    )
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Ten nodes of whom nine are needed: one line for each length, with nobody and with one node vanished."""
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps(dataclasses.asdict(run(*map(int, sys.argv[2:])))))
        return
    for length in map(int, sys.argv[1:]):
        for vanished in (0, 1):
            print(json.dumps(dataclasses.asdict(measured(10, length, 9, vanished))), flush=True)


if __name__ == "__main__":
    main()
