"""One step of training, in every way that `bench/dp.py` compares: plain, ours, Opacus three times, deepee.

All use the same network, batch and optimiser (SGD). The peers add no noise here and are clipped to the same norm; each
gets what its manual says: Opacus hooks (`GradSampleModule`), ghost clipping (`GradSampleModuleFastGradientClipping`),
functorch (`force_functorch`), deepee's `PrivacyWrapper` with one replica an example.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from bench.dp_models import Case, loss
from primum.clipping import Clipper

NORM = 1.0
RATE = 1e-3
Step = Callable[[], None]


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=RATE)


def plain(case: Case) -> Step:
    """No privacy."""
    model, (inputs, targets) = case.model(), case.batch()
    optimiser = _sgd(model)

    def step() -> None:
        optimiser.zero_grad()
        loss(model(inputs), targets).mean().backward()
        optimiser.step()

    return step


def clipped(case: Case) -> Step:
    """Ours, clipping alone."""
    model, (inputs, targets) = case.model(), case.batch()
    optimiser, clipper = _sgd(model), Clipper(model, loss, NORM, rows=len(inputs))

    def step() -> None:
        clipper.add(inputs, targets)
        clipper.write_without_noise(len(inputs))
        optimiser.step()

    return step


def opacus_hooks(case: Case) -> Step:
    """Opacus, per-sample gradients by hooks."""
    return _opacus(case, False)


def opacus_functorch(case: Case) -> Step:
    """Opacus, per-sample gradients by functorch."""
    return _opacus(case, True)


def _opacus(case: Case, functorch: bool) -> Step:
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    inputs, targets = case.batch()
    model = GradSampleModule(case.model(), force_functorch=functorch)
    optimiser = DPOptimizer(_sgd(model), noise_multiplier=0.0, max_grad_norm=NORM, expected_batch_size=len(inputs))

    def step() -> None:
        optimiser.zero_grad()
        loss(model(inputs), targets).mean().backward()
        optimiser.step()

    return step


def opacus_ghost(case: Case) -> Step:
    """Opacus, ghost clipping: two backward passes."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from opacus.optimizers import DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPTensorFastGradientClipping

    inputs, targets = case.batch()
    model = GradSampleModuleFastGradientClipping(case.model(), max_grad_norm=NORM, use_ghost_clipping=True)
    optimiser = DPOptimizerFastGradientClipping(
        _sgd(model), noise_multiplier=0.0, max_grad_norm=NORM, expected_batch_size=len(inputs)
    )

    def step() -> None:
        optimiser.zero_grad()
        DPTensorFastGradientClipping(model, optimiser, loss(model(inputs), targets)).backward()
        optimiser.step()

    return step


def _side_by_side(models: Sequence[nn.Module], inputs: Tensor) -> list[Tensor]:
    """torch.nn.parallel.parallel_apply on a processor: a thread a copy. Today's torch refuses it without a GPU."""
    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(lambda pair: pair[0](pair[1]), zip(models, inputs, strict=True)))


def deepee(case: Case) -> Step:
    """deepee, one copy of the network an example; the one call that today's torch refuses here replaced by its like."""
    from deepee import PrivacyWrapper

    torch.nn.parallel.parallel_apply = _side_by_side
    inputs, targets = case.batch()
    model = PrivacyWrapper(case.model(), num_replicas=len(inputs), L2_clip=NORM, noise_multiplier=0.0)
    optimiser = _sgd(model.wrapped_model)

    def step() -> None:
        loss(model(inputs), targets).mean().backward()
        model.clip_and_accumulate()
        model.noise_gradient()
        optimiser.step()
        model.prepare_next_batch()
        for replica in model.models:
            replica.zero_grad()

    return step


OPACUS = {"hooks": opacus_hooks, "ghost": opacus_ghost, "functorch": opacus_functorch}
WAYS: dict[str, Callable[[Case], Step]] = {"plain": plain, "clipped": clipped, **OPACUS, "deepee": deepee}
