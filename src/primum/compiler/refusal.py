"""What a model has that cannot be compiled: collected first, then refused all at once."""

from typing import Final

from primum.errors import ModelError

NORMS: Final = "a norm over the image itself needs a square root of a secret; use a norm-free model or batch norm"
TREES: Final = "trees compare a secret at every node; use a linear model, an MLP or a network"
SUPPORT: Final = "a kernel needs an exponential of a secret; use LinearSVC or LogisticRegression"
ATTENTION: Final = "attention needs an exponential of a secret"
REASONS: Final = {
    **dict.fromkeys(
        [
            "group_norm",
            "native_group_norm",
            "layer_norm",
            "native_layer_norm",
            "instance_norm",
            "rms_norm",
            "GroupNormalization",
            "LayerNormalization",
            "InstanceNormalization",
            "RMSNormalization",
            "LpNormalization",
            "Normalizer",
        ],
        NORMS,
    ),
    **dict.fromkeys(("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"), TREES),
    **dict.fromkeys(("SVMClassifier", "SVMRegressor"), SUPPORT),
    **dict.fromkeys(("scaled_dot_product_attention", "Attention", "MultiHeadAttention"), ATTENTION),
}
MOST_PLACES: Final = 3


class Refusals:
    """Operators without a rule, with the layers that use them."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[str]] = {}

    @staticmethod
    def reason(operator: str) -> str:
        """Why an operator that no rule knows is refused."""
        return REASONS.get(operator, "no rule")

    def add(self, operator: str, place: str, reason: str) -> None:
        """Note one use of `operator`."""
        self.found.setdefault((operator, reason), []).append(place)

    def raise_if_any(self, model: str) -> None:
        """ModelError that names them all."""
        if not self.found:
            return
        lines = [
            f"{operator} ({reason}) at {', '.join(places[:MOST_PLACES])}"
            + (f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else "")
            for (operator, reason), places in sorted(self.found.items())
        ]
        raise ModelError(
            f"this {model} has {len(lines)} kinds of layers that cannot be computed under encryption: "
            + "; ".join(lines)
            + ".",
            "Replace them; the model was not sent anywhere.",
        )
