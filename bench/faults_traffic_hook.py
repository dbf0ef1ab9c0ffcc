"""Goes before every process of a recorded run, as `sitecustomize.py`: keeps what is plain inside, for the search later.

It changes nothing that is sent. With PRIMUM_PLANTED=1 it does: masks are not added and TLS is not begun (a patched build),
so that the search can be seen to find what it looks for.
"""

import importlib.abc
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEPT = os.environ.get("PRIMUM_KEPT", "")
PLANTED = os.environ.get("PRIMUM_PLANTED") == "1"
_number = itertools.count()


def keep(kind: str, array: Any) -> None:
    """One array, in a file of its own."""
    import numpy as np

    np.save(Path(KEPT) / f"{kind}-{os.getpid()}-{next(_number)}.npy", np.asarray(array), allow_pickle=False)


def after_learner(module: Any) -> None:
    """Plain vectors, gradients, features, labels and patients of a hospital."""
    learner = module.Learner
    begin, step, gradient = learner.__init__, learner.step, learner.gradient

    def begin_kept(self: Any, plan: Any, cohort: Any, *rest: Any) -> None:
        keep("features", cohort.features.numpy())
        keep("labels", cohort.labels.numpy())
        keep("patients", list(cohort.patients))
        begin(self, plan, cohort, *rest)

    def step_kept(self: Any, weights: Any) -> Any:
        vector = step(self, weights)
        keep(f"vector{self._plan.update.shape.bits}", vector)
        return vector

    def gradient_kept(self: Any, weights: Any) -> Any:
        found = gradient(self, weights)
        keep("gradient", found)
        return found

    learner.__init__, learner.step, learner.gradient = begin_kept, step_kept, gradient_kept


def after_look(module: Any) -> None:
    """The plain table of a look."""
    look = module.look

    def look_kept(plan: Any, cohort: Any, weights: Any, stream: Any) -> Any:
        vector = look(plan, cohort, weights, stream)
        keep(f"vector{plan.evaluation.bits}", vector)
        return vector

    module.look = look_kept


def after_requests(module: Any) -> None:
    """What a data owner shares between the servers, and the answers."""
    make, open_all = module.make_requests, module.open_answers

    def make_kept(inputs: Any, *rest: Any) -> Any:
        keep("inputs", inputs)
        return make(inputs, *rest)

    def open_kept(*given: Any) -> Any:
        outputs, first = open_all(*given)
        keep("outputs", outputs)
        return outputs, first

    module.make_requests, module.open_answers = make_kept, open_kept


def without_masks(module: Any) -> None:
    """Of a patched build: a vector leaves as it is."""
    module._Masks.add_to = lambda self, total: None


def without_tls() -> None:
    """Of a patched build: nobody begins TLS, and nobody expects it."""
    import asyncio.base_events as events

    sys.modules["uvloop"] = None  # type: ignore[assignment]  # its loops cannot be patched: uvicorn then takes asyncio's
    create = events.BaseEventLoop.create_server

    async def create_plain(self: Any, *given: Any, ssl: Any = None, **more: Any) -> Any:
        return await create(self, *given, **more)

    events.BaseEventLoop.create_server = create_plain  # type: ignore[method-assign]


def _plain_stream(module: Any) -> None:
    async def later(self: Any, *given: Any, **more: Any) -> Any:
        return self

    for name in ("SyncStream", "AnyIOStream"):
        if hasattr(module, name):
            stay = later if name == "AnyIOStream" else (lambda self, *given, **more: self)
            getattr(module, name).start_tls = stay


class _After(importlib.abc.MetaPathFinder):
    """Runs an action when a module has been imported."""

    def __init__(self, actions: dict[str, Callable[[Any], None]]) -> None:
        self._actions = actions

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        action = self._actions.pop(name, None)
        if action is None:
            return None
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def executed(module: Any) -> None:
            execute(module)
            action(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


if KEPT:
    found: dict[str, Callable[[Any], None]] = {
        "primum.tasks.learner": after_learner,
        "primum.tasks.look": after_look,
        "primum.diagnosis.requests": after_requests,
    }
    if PLANTED:
        found["primum.secagg.masks"] = without_masks
        found["httpcore._backends.sync"] = found["httpcore._backends.anyio"] = _plain_stream
        without_tls()
    sys.meta_path.insert(0, _After(found))
