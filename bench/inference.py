"""Encrypted inference against CrypTen and SPU: the same models, images and machine, each party a process.

    scripts/bench inference [--only speed wan default agreement sizes] [--no-peers]

Both peers make their multiplication triples inside the time that is measured. `total` is the fair comparison: our time
an image when images come one after another, dealer and the servers' own preparation included. `online` is what a data
owner waits for when the material is there. All times are from decoded image to revealed logits; every party has one
thread; one image at a time; median of five.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from bench import inference_models, inference_peers
from bench.inference_agreement import agreement
from bench.inference_models import WORKLOADS
from bench.inference_roles import resident_megabytes, roles
from primum.compiler import Compiled, Wish, compile_module
from primum.diagnosis.client import Servers, run
from primum.diagnosis.data_owner import ImagePath
from primum.diagnosis.deployable import Deployable, deployable_model, deployable_network
from primum.diagnosis.deployment import PublicFile
from primum.diagnosis.plan import plan_of
from primum.diagnosis.requests import make_requests, open_answers
from primum.imaging import Preparation
from primum.keys.sealing import SealingKey
from primum.models.card import Card, NetworkCard, TrainedModel
from primum.models.feature_map import ScatteringCard
from primum.models.linear import LinearHead
from primum.mpc.check import cost

REPEATS = 5
SETTLE_SECONDS = 2.5
"""After a request the servers prepare for the next; the online figure begins when they have."""
WAN_SECONDS = 0.035
SIZES = (64, 128, 224, 320, 512)


@dataclass(frozen=True)
class Ours:
    """Seconds: waited for with material in store, and all in all one after another; and what else was measured."""

    online: float
    total: float
    error: float
    megabytes: float


async def _measure(public: PublicFile, images: torch.Tensor, plain: np.ndarray, normalised: bool) -> Ours:
    way = ImagePath.of(public)

    async with Servers(public.deployment) as servers:

        async def one(place: int) -> tuple[float, float]:
            image = images[place % len(images)][None]
            start = time.perf_counter()
            inputs = image.permute(0, 2, 3, 1).contiguous().numpy() if normalised else way.inputs(image)
            key = SealingKey.generate()
            requests = make_requests(inputs, public.deployment, key.public)
            answers, _ = await servers.ask(requests)
            logits, _ = open_answers(answers, requests[0], public.deployment, key)
            seconds = time.perf_counter() - start
            return seconds, float(np.abs(logits.reshape(-1) - plain[place % len(plain)]).max())

        await one(0)
        found = []
        for place in range(REPEATS):
            time.sleep(SETTLE_SECONDS)
            found.append(await one(place))
        online = statistics.median(seconds for seconds, _ in found)
        start = time.perf_counter()
        found += [await one(place) for place in range(REPEATS)]
        total = (time.perf_counter() - start) / REPEATS
    return Ours(online, total, max(error for _, error in found), 0.0)


def measure(
    model: Deployable, images: torch.Tensor, plain: np.ndarray, *, delay: float = 0.0, normalised: bool = True
) -> Ours:
    """Our figures for one model; `delay`: seconds that every byte between two processes takes."""
    with roles(model, delay) as (public, running):
        found = run(lambda: _measure(public, images, plain, normalised))
        memory = max(resident_megabytes(running[role]) for role in ("A", "B"))
    return Ours(found.online, found.total, found.error, memory)


def compiled_workload(name: str) -> Compiled:
    """A network of the benchmark, calibrated on images that are not measured."""
    shape = WORKLOADS[name]
    wish = Wish(images=inference_models.images(name, 32, 5).numpy())
    return compile_module(inference_models.network(name), (shape.channels, shape.size, shape.size), wish)


def network_of(compiled: Compiled) -> Deployable:
    """A compiled network with a card that says nothing."""
    channels, size, _ = compiled.graph.shape
    outputs = compiled.program.wire(compiled.program.output).size
    card = NetworkCard(
        classes=tuple(f"class {k}" for k in range(outputs)), preparation=Preparation(size, channels).to_card()
    )
    return deployable_network(compiled, card)


def speed(peers: bool, names: list[str]) -> dict[str, float]:
    """Ours and theirs, network by network."""
    result: dict[str, float] = {}
    for name in names:
        compiled = compiled_workload(name)
        images = inference_models.images(name)
        found, price = measure(network_of(compiled), images, compiled.plain(images.numpy())), cost(compiled.program)
        plain = inference_peers.plain_seconds(name)
        print(f"{name}: {found}, {plain:.4f} s in the clear, {price}", flush=True)
        result |= {f"{name}_online_s": found.online, f"{name}_total_s": found.total}
        result |= {f"{name}_plain_ratio": found.online / plain, f"{name}_error": found.error}
        result |= {f"{name}_online_mb": 2 * price.sent_each_way / 1e6, f"{name}_dealer_mb": price.dealt_to_b / 1e6}
        result[f"{name}_server_mb"] = found.megabytes
        if peers:
            theirs = [
                got for peer in ("crypten", "spu") if (got := inference_peers.attempt(peer, name, REPEATS)) is not None
            ]
            best = min(got.median for got in theirs)
            print(f"{name}: peers {[round(got.median, 3) for got in theirs]} s", flush=True)
            result |= {f"{name}_online_ratio": best / found.online, f"{name}_total_ratio": best / found.total}
    return result


def wide_area() -> dict[str, float]:
    """ResNet-18 at 224 with 70 ms of round trip between any two processes."""
    compiled = compiled_workload("r18_224")
    images = inference_models.images("r18_224")
    found = measure(network_of(compiled), images, compiled.plain(images.numpy()), delay=WAN_SECONDS)
    print(f"wide area: {found}", flush=True)
    return {"wan_70ms_s": found.online}


def default_model() -> dict[str, float]:
    """Primum's default: scattering at 64 pixels and two scales, and a linear layer; random weights of length 6."""
    card = ScatteringCard(size=64, scales=2)
    front_end = card.feature_map()
    weight = torch.randn(1, front_end.dimension, generator=torch.Generator().manual_seed(1))
    weight *= 6 / weight.norm()
    privacy: dict[str, float] = {}
    described = Card(
        classes=("NORMAL", "PNEUMONIA"),
        front_end=card,
        preparation=Preparation(64).to_card(),
        privacy=privacy,
        trained={},
    )
    head = LinearHead(front_end.dimension, 1)
    head.load_state_dict({"weight": weight})
    model = TrainedModel(described, front_end, head)
    images = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    plain = (front_end.features(images) @ weight.T).double().numpy()
    found = measure(deployable_model(model), images, plain, normalised=False)
    print(f"default: {found}", flush=True)
    return {"default_ms": 1e3 * found.online, "default_error": found.error}


def sizes() -> dict[str, float]:
    """ResNet-18 at several sizes, all roles in one process: does the cost grow with the pixels?"""
    result = {}
    for size in SIZES:
        network = inference_models.network("r18_224")
        network = nn.Sequential(*list(network)[:-3], nn.AdaptiveAvgPool2d(1), *list(network)[-2:]).eval()
        calibration = torch.nn.functional.interpolate(inference_models.images("r18_224", 4, 5), size)
        plan = plan_of(network_of(compile_module(network, (3, size, size), Wish(images=calibration.numpy()))))
        print(f"{size}: {plan.in_words()}", flush=True)
        result[f"size_{size}_ms"] = 1e3 * plan.running
        result[f"size_{size}_mb"] = 2 * plan.cost.sent_each_way / 1e6
    return result


PARTS = ("speed", "wan", "default", "sizes", "agreement")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    parts = {
        "speed": lambda: speed(not arguments.no_peers, arguments.workloads),
        "wan": wide_area,
        "default": default_model,
        "sizes": sizes,
        "agreement": agreement,
    }
    result: dict[str, float] = {}
    for part in PARTS:
        if part in arguments.only:
            result |= parts[part]()
    print(json.dumps({name: float(f"{value:.4g}") for name, value in result.items()}))


if __name__ == "__main__":
    main()
