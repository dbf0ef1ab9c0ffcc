"""CrypTen (Knott et al., NeurIPS 2021), one party: `python -m bench.peers.crypten_party RANK FILE REPEATS PORT PORT`.

Triples come from its trusted first party, made while the image is computed. Each party has one thread.
CrypTen 0.4.1 asks for torchvision, of which it needs nothing here, and for a private module of torch that has moved.
"""

import importlib
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

from bench.peers.party import DATA_OWNER, MODEL_OWNER, Task, measure, task

_INSTALLED = Path(__file__).resolve().parents[2] / ".bench" / "inference" / "crypten"
_MOVED = "torch.onnx._internal.registration"


def imported() -> Any:
    """The module `crypten`, on this torch."""
    sys.path.append(str(_INSTALLED))
    stand_in = types.ModuleType("torchvision")
    for name in ("models", "datasets", "transforms"):
        part = types.ModuleType(f"torchvision.{name}")
        setattr(stand_in, name, part)
        sys.modules[part.__name__] = part
    sys.modules["torchvision"] = stand_in
    try:
        importlib.import_module(_MOVED)
    except ModuleNotFoundError:
        sys.modules[_MOVED] = importlib.import_module("torch.onnx._internal.torchscript_exporter.registration")
    return importlib.import_module("crypten")


def environment(asked: Task) -> dict[str, str]:
    """How CrypTen is told who takes part."""
    rendezvous = f"tcp://127.0.0.1:{asked.ports[0]}"
    who = {"RANK": str(asked.rank), "WORLD_SIZE": "2", "RENDEZVOUS": rendezvous}
    return {**who, "DISTRIBUTED_BACKEND": "gloo", "GLOO_SOCKET_IFNAME": "lo"}


def main() -> None:
    """Share the model, then measure."""
    warnings.simplefilter("ignore")
    asked = task()
    os.environ.update(environment(asked))
    import numpy as np
    import torch

    torch.set_num_threads(1)
    crypten = imported()
    crypten.init()
    images = torch.from_numpy(np.load(asked.file)["images"])
    with asked.file.with_suffix(".onnx").open("rb") as file:
        model = crypten.nn.from_onnx(file)
    model.encrypt(src=MODEL_OWNER)
    model.eval()

    def infer(number: int) -> list[float]:
        image = number % len(images)
        with crypten.no_grad():
            shared = crypten.cryptensor(images[image : image + 1], src=DATA_OWNER)
            revealed = model(shared).get_plain_text(dst=DATA_OWNER)
        return [float(value) for value in revealed.flatten()] if asked.rank == DATA_OWNER else []

    measure(asked, crypten.comm.get().barrier, infer)
    crypten.uninit()


if __name__ == "__main__":
    main()
