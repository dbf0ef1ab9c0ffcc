"""Which fixed feature map a study or a card asks for: one class of settings a kind, one function that makes it.

| kind | what | when it helps (docs/how-to/small-epsilon.md) |
|---|---|---|
| scattering | one scattering transform | fewest weights, least bytes |
| multiscale | several, whitened by drawn noise, averaged over views | every epsilon from 0.5 on |
| random | random convolutions, as a public stream draws them | a baseline; colour and texture |
| backbone | a frozen network from a safetensors file | where a public network has seen such images |
| pixels | the pixels themselves, standardised | a network that learns all by itself |
| pixel-features | blurs, slopes and places at every pixel | masks from few patients, small epsilon |
"""

from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Discriminator, Tag
from torch import Tensor

from primum.models.backbone import Backbone, Name
from primum.models.multiscale import MultiScale, Views
from primum.models.pixel_features import PixelFeatures
from primum.models.pixels import Pixels
from primum.models.random_features import RandomFeatures
from primum.models.scattering import FrontEnd


class FeatureMap(Protocol):
    """Images [n, channels, size, size] in [0, 1] -> what is learned from. Fixed and public.

    Vectors of length at most 1, or maps with a vector a pixel, of any length.
    """

    @property
    def size(self) -> int:
        """Pixels a side."""

    @property
    def channels(self) -> int:
        """1 grey, 3 colour."""

    @property
    def dimension(self) -> int:
        """How many values one image gives."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(dimension,) for a vector; [depth, size, size] for a map, of patches in 3D [depth, slices, size, size]."""

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, *shape]."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    channels: int = 1


class ScatteringCard(_Settings):
    """`scattering.FrontEnd`."""

    kind: Literal["scattering"] = "scattering"
    scales: int
    angles: int = 8

    def feature_map(self) -> FeatureMap:
        """ModelError where the numbers do not fit each other."""
        return FrontEnd(self.size, self.scales, self.angles, self.channels)


class MultiScaleCard(_Settings):
    """`multiscale.MultiScale`."""

    kind: Literal["multiscale"] = "multiscale"
    scales: tuple[int, ...]
    angles: int = 8
    views: Views = "zoom"

    def feature_map(self) -> FeatureMap:
        """ModelError where the numbers do not fit each other."""
        return MultiScale(self.size, self.scales, self.angles, self.channels, self.views)


class RandomCard(_Settings):
    """`random_features.RandomFeatures`."""

    kind: Literal["random"] = "random"
    filters: int = 256
    patch: int = 6
    pools: int = 3

    def feature_map(self) -> FeatureMap:
        """ModelError where the numbers do not fit each other."""
        return RandomFeatures(self.size, self.channels, self.filters, self.patch, self.pools)


class BackboneCard(_Settings):
    """`backbone.Backbone`."""

    kind: Literal["backbone"] = "backbone"
    backbone: Name
    weights: str

    def feature_map(self) -> FeatureMap:
        """ModelError where the file of the weights is missing, altered or of another network."""
        return Backbone(self.size, self.channels, self.backbone, self.weights)


class PixelsCard(_Settings):
    """`pixels.Pixels`."""

    kind: Literal["pixels"] = "pixels"
    deviations: float | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    depth: int | None = None

    def feature_map(self) -> FeatureMap:
        """ModelError where the numbers do not fit each other."""
        return Pixels(self.size, self.channels, self.deviations, self.mean, self.deviation, self.depth)


class PixelFeaturesCard(_Settings):
    """`pixel_features.PixelFeatures`."""

    kind: Literal["pixel-features"] = "pixel-features"
    scales: int = 4
    places: int = 8

    def feature_map(self) -> FeatureMap:
        """ModelError where the numbers do not fit each other."""
        return PixelFeatures(self.size, self.channels, self.scales, self.places)


def _kind_of(card: Any) -> Any:
    return card.get("kind", "scattering") if isinstance(card, dict) else getattr(card, "kind", None)


FrontEndCard = Annotated[
    Annotated[ScatteringCard, Tag("scattering")]
    | Annotated[MultiScaleCard, Tag("multiscale")]
    | Annotated[RandomCard, Tag("random")]
    | Annotated[BackboneCard, Tag("backbone")]
    | Annotated[PixelsCard, Tag("pixels")]
    | Annotated[PixelFeaturesCard, Tag("pixel-features")],
    Discriminator(_kind_of),
]
