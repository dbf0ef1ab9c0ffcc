"""SPU (SecretFlow; Ma et al., USENIX ATC 2023), one party: `python -m bench.peers.spu_party RANK FILE REPEATS PORT PORT`.

SEMI2K with 64-bit numbers, 18 of them fractional, and triples from the trusted first party, made while the image is
computed. Each party has one thread. The networks are written once more in JAX, channels last.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import spu
import spu.libspu as core
from jax import lax
from spu.utils import frontend

from bench.peers.party import DATA_OWNER, MODEL_OWNER, measure, task

Arrays = dict[str, Any]
_FRACTION = 18
_PATIENCE = 600_000  # milliseconds


def configuration() -> Any:
    """Of the protocol and of the one thread."""
    config = core.RuntimeConfig()
    config.protocol, config.field, config.fxp_fraction_bits = core.SEMI2K, core.FM64, _FRACTION
    config.beaver_type = core.RuntimeConfig.TrustedFirstParty
    config.max_concurrency = 1
    return config


def convolution(weights: Arrays, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
    """x [1, h, w, c]; the kernel [h, w, inputs, outputs]."""
    edges, axes = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
    product = lax.conv_general_dilated(x, weights[f"{name}.weight"], (stride, stride), edges, dimension_numbers=axes)
    return product + weights[f"{name}.bias"]


def linear(weights: Arrays, name: str, x: Any) -> Any:
    """x [1, n]."""
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def largest(x: Any, kernel: int) -> Any:
    """Max pooling, stride 2, without padding."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, kernel, kernel, 1), (1, 2, 2, 1), "VALID")


def relu(x: Any) -> Any:
    """The larger of x and 0."""
    return jnp.maximum(x, 0)


def small_cnn(weights: Arrays, x: Any) -> Any:
    """`bench.inference_models`, `cnn_28`."""
    x = relu(largest(convolution(weights, "0", x), 2))
    x = relu(largest(convolution(weights, "3", x), 2)).reshape(1, -1)
    return linear(weights, "9", relu(linear(weights, "7", x)))


def resnet18(weights: Arrays, x: Any) -> Any:
    """`bench.inference_models`, `r18_*`. The edges of max pooling are 0: what comes in is no smaller."""
    x = relu(convolution(weights, "0", x, 2, 3))
    x = largest(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3)
    for block in range(3, 11):
        stride = 2 if f"{block}.down.weight" in weights else 1
        y = relu(convolution(weights, f"{block}.first", x, stride, 1))
        y = convolution(weights, f"{block}.second", y, 1, 1)
        x = relu(y + (convolution(weights, f"{block}.down", x, 2) if stride == 2 else x))
    return linear(weights, "13", jnp.sum(x, axis=(1, 2)) * (1.0 / (x.shape[1] * x.shape[2])))


def channels_last(name: str, weight: Any) -> Any:
    """PyTorch's layout to JAX's; the small network's first linear layer follows a flattening, channels outermost."""
    if weight.ndim == 4:
        weight = weight.transpose(2, 3, 1, 0)
    elif weight.ndim == 2:
        weight = weight.T
        if name == "7.weight":
            weight = weight.reshape(32, 4, 4, -1).transpose(1, 2, 0, 3).reshape(512, -1)
    return np.ascontiguousarray(weight)


def compiled(network: Callable[[Arrays, Any], Any], weights: Arrays, image: Any) -> Any:
    """For SPU; everything that goes in is secret."""
    count = len(jax.tree_util.tree_leaves((weights, image)))
    names, secret = [f"in{number}" for number in range(count)], [core.VIS_SECRET] * count
    executable, _ = frontend.compile(
        frontend.Kind.JAX, network, (weights, image), {}, names, secret, lambda outputs: ["logits"] * len(outputs)
    )
    return executable


def connected(rank: int, ports: tuple[int, int]) -> Any:
    """The link between the two parties."""
    description = core.link.Desc()
    description.recv_timeout_ms = description.http_timeout_ms = _PATIENCE
    description.connect_retry_times, description.connect_retry_interval_ms = 600, 100
    for number, port in enumerate(ports):
        description.add_party(f"party{number}", f"127.0.0.1:{port}")
    return core.link.create_brpc(description, rank)


class Party:
    """One of two: shares go over the same link as the protocol."""

    def __init__(self, rank: int, link: Any) -> None:
        self.rank, self.link = rank, link
        self.io = spu.Io(2, configuration())
        self.runtime = spu.Runtime(link, configuration())

    def share(self, owner: int, values: dict[str, Any]) -> None:
        """`values` of `owner` become variables of the runtimes; the other party knows their names alone."""
        if self.rank == owner:
            shares = {name: self.io.make_shares(value, core.VIS_SECRET) for name, value in values.items()}
            self.link.send(1 - owner, pickle.dumps({name: written(pair[1 - owner]) for name, pair in shares.items()}))
            mine = {name: pair[owner] for name, pair in shares.items()}
        else:
            mine = {name: read(share) for name, share in pickle.loads(self.link.recv(owner)).items()}
        for name, share in mine.items():
            self.runtime.set_var(name, share)

    def reveal(self, receiver: int, name: str) -> list[float]:
        """The value of a variable; empty for the other party."""
        share = self.runtime.get_var(name)
        if self.rank != receiver:
            self.link.send(receiver, pickle.dumps(written(share)))
            return []
        other = read(pickle.loads(self.link.recv(1 - receiver)))
        pair = [other, share] if receiver else [share, other]
        return [float(value) for value in np.ravel(self.io.reconstruct(pair))]


def written(share: Any) -> tuple[Any, list[bytes]]:
    """What pickle can carry."""
    return share.meta, list(share.share_chunks)


def read(parts: tuple[Any, list[bytes]]) -> Any:
    """The other way round."""
    share = core.Share()
    share.meta, share.share_chunks = parts
    return share


def loaded(file: Path) -> tuple[Arrays, Any]:
    """Weights and images, channels last."""
    with np.load(file) as arrays:
        names = [name for name in arrays.files if name.startswith("model.")]
        weights = {name[6:]: channels_last(name[6:], arrays[name]) for name in names}
        return weights, np.ascontiguousarray(arrays["images"].transpose(0, 2, 3, 1))


def main() -> None:
    """Compile, share the model, then measure."""
    asked = task()
    weights, images = loaded(asked.file)
    network = small_cnn if asked.file.stem == "cnn_28" else resnet18
    executable = compiled(network, weights, images[:1])
    *names, image_name = executable.input_names
    party = Party(asked.rank, connected(asked.rank, asked.ports))
    party.share(MODEL_OWNER, dict(zip(names, jax.tree_util.tree_leaves(weights), strict=True)))

    def infer(number: int) -> list[float]:
        image = number % len(images)
        party.share(DATA_OWNER, {image_name: images[image : image + 1]})
        party.runtime.run(executable)
        return party.reveal(DATA_OWNER, "logits")

    measure(asked, party.link.barrier, infer)
    party.link.stop_link()


if __name__ == "__main__":
    main()
