"""The kinds of models that a study can name, each with its settings; what they are stands in models/."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag


class Section(BaseModel):
    """A part of a study: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Model(Section):
    """What is learned: one linear layer on a fixed feature map; here one scattering transform."""

    kind: Literal["scattering-linear"] = "scattering-linear"
    scales: Annotated[int, Field(ge=1, le=5)] = 3
    angles: Annotated[int, Field(ge=2, le=16)] = 8


class MultiScaleModel(Section):
    """The same on several scattering transforms at once, whitened by drawn noise, averaged over `views`."""

    kind: Literal["multiscale-linear"]
    scales: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1, max_length=5)] = (1, 2, 3)
    angles: Annotated[int, Field(ge=2, le=16)] = 8
    views: Literal["one", "shift", "zoom", "mirror"] = "zoom"


class RandomModel(Section):
    """The same on drawn filters: a baseline, and for texture and colour."""

    kind: Literal["random-linear"]
    filters: Annotated[int, Field(ge=1, le=4096)] = 256
    patch: Annotated[int, Field(ge=2, le=32)] = 6
    pools: Annotated[int, Field(ge=1, le=64)] = 3


class BackboneModel(Section):
    """The same on a frozen public network, whose file everybody has: `weights` is its SHA-256 (models/backbone.py)."""

    kind: Literal["backbone-linear"]
    backbone: Literal["resnet18"] = "resnet18"
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PixelModel(Section):
    """Masks: one linear layer at every pixel on fixed features of its surroundings and its place (pixel_features.py)."""

    kind: Literal["pixel-linear"]
    scales: Annotated[int, Field(ge=1, le=6)] = 4
    places: Annotated[int, Field(ge=1, le=16)] = 8


Widths = Annotated[tuple[Annotated[int, Field(ge=2, le=2048)], ...], Field(min_length=1, max_length=6)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=8)], ...], Field(min_length=1, max_length=6)]


class SmallNetworkModel(Section):
    """A few convolutions and a linear layer, all learned (models/convolutional.py)."""

    kind: Literal["small-network"]
    widths: Widths = (16, 32, 32)
    pooling: Literal["max", "average"] = "max"


class ResidualModel(Section):
    """A residual network without normalisation, all learned (models/convolutional.py)."""

    kind: Literal["residual-network"]
    widths: Widths = (64, 128, 256, 512)
    blocks: Annotated[int, Field(ge=1, le=8)] = 2
    pooling: Literal["max", "average"] = "max"


class VggModel(Section):
    """A VGG without normalisation, all learned (models/vgg.py); `blocks`: convolutions of each width."""

    kind: Literal["vgg"]
    widths: Widths = (8, 16, 32, 64, 64)
    blocks: Blocks = (1, 1, 2, 2, 2)
    pooling: Literal["max", "average"] = "max"


class SqueezeModel(Section):
    """A SqueezeNet 1.1 without normalisation, all learned (models/squeeze.py)."""

    kind: Literal["squeeze-network"]
    widths: Widths = (16, 32, 48, 64)
    pooling: Literal["max", "average"] = "max"


class MobileModel(Section):
    """Inverted residuals in the manner of EfficientNet without normalisation, all learned (models/mobile.py)."""

    kind: Literal["mobile-network"]
    widths: Widths = (16, 24, 40, 64)
    blocks: Annotated[int, Field(ge=1, le=8)] = 2
    expansion: Annotated[int, Field(ge=1, le=8)] = 4


class UNetModel(Section):
    """Masks: a U-Net without normalisation, all learned (models/unet.py); of patches in 3D, with group norm (unet3d.py)."""

    kind: Literal["u-net"]
    widths: Widths = (16, 32, 64, 128)


class MoNetModel(Section):
    """Masks: a MoNet without normalisation, all learned (models/monet.py)."""

    kind: Literal["mo-net"]
    widths: Widths = (20, 40, 80)


class SegResNetModel(Section):
    """Masks: a SegResNet without normalisation, all learned (models/segresnet.py); `blocks`: of each width."""

    kind: Literal["seg-resnet"]
    widths: Widths = (8, 16, 32, 64)
    blocks: Blocks = (1, 2, 2, 4)


MASK_MODELS = (PixelModel, UNetModel, MoNetModel, SegResNetModel)
PIXEL_MODELS = (
    SmallNetworkModel, ResidualModel, VggModel, SqueezeModel, MobileModel, UNetModel, MoNetModel, SegResNetModel
)  # fmt: skip


def _kind_of(model: Any) -> Any:
    """Which class of settings: by `kind`, and the first where none is named."""
    return model.get("kind", "scattering-linear") if isinstance(model, dict) else getattr(model, "kind", None)


AnyModel = Annotated[
    Annotated[Model, Tag("scattering-linear")]
    | Annotated[MultiScaleModel, Tag("multiscale-linear")]
    | Annotated[RandomModel, Tag("random-linear")]
    | Annotated[BackboneModel, Tag("backbone-linear")]
    | Annotated[SmallNetworkModel, Tag("small-network")]
    | Annotated[ResidualModel, Tag("residual-network")]
    | Annotated[VggModel, Tag("vgg")]
    | Annotated[SqueezeModel, Tag("squeeze-network")]
    | Annotated[MobileModel, Tag("mobile-network")]
    | Annotated[PixelModel, Tag("pixel-linear")]
    | Annotated[UNetModel, Tag("u-net")]
    | Annotated[MoNetModel, Tag("mo-net")]
    | Annotated[SegResNetModel, Tag("seg-resnet")],
    Discriminator(_kind_of),
]
KINDS: dict[str, type[BaseModel]] = {
    tag.tag: settings for settings, tag in (get_args(one) for one in get_args(get_args(AnyModel)[0]))
}
