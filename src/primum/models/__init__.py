"""Models: fixed feature maps and small trainable layers, and a model on disk.

In: images float32 [n, channels, size, size] in [0, 1]. Out: features of length at most 1, logits, probabilities.
A model is a public front end that is fixed and a module that is learned on what it gives. Read `scattering.py` first (the
default front end), `feature_map.py` (which there are), then `learned.py` (what can be learned on them) and `card.py` (what
is saved), `answers.py` (what outputs mean); `convolutional.py`, `vgg.py`, `squeeze.py`, `mobile.py` (classes), `unet.py`,
`monet.py` and `segresnet.py` (masks) are whole networks without normalisation; `unet3d.py` learns patches of volumes, with group norm.
Sources: Bruna and Mallat 2013 (scattering), Tramèr and Boneh 2021 (why fixed features under differential privacy).
"""

from primum.models.answers import grades_of, outputs_for, probabilities_of
from primum.models.backbone import Backbone
from primum.models.card import Card, NetworkCard, TrainedModel, load_model, save_model
from primum.models.convolutional import ResidualNetwork, SmallNetwork
from primum.models.feature_map import (
    BackboneCard,
    FeatureMap,
    FrontEndCard,
    MultiScaleCard,
    PixelFeaturesCard,
    PixelsCard,
    RandomCard,
    ScatteringCard,
)
from primum.models.learned import Learned
from primum.models.linear import LinearHead, logits_of
from primum.models.mobile import MobileNetwork
from primum.models.monet import MoNet
from primum.models.multiscale import MultiScale
from primum.models.pixel_features import PixelFeatures
from primum.models.pixels import Pixels
from primum.models.random_features import RandomFeatures
from primum.models.scattering import FrontEnd
from primum.models.segresnet import SegResNet
from primum.models.squeeze import SqueezeNetwork
from primum.models.unet import UNet
from primum.models.unet3d import UNet3d
from primum.models.vgg import Vgg

__all__ = [
    "Backbone",
    "BackboneCard",
    "Card",
    "FeatureMap",
    "FrontEnd",
    "FrontEndCard",
    "Learned",
    "LinearHead",
    "MoNet",
    "MobileNetwork",
    "MultiScale",
    "MultiScaleCard",
    "NetworkCard",
    "PixelFeatures",
    "PixelFeaturesCard",
    "Pixels",
    "PixelsCard",
    "RandomCard",
    "RandomFeatures",
    "ResidualNetwork",
    "ScatteringCard",
    "SegResNet",
    "SmallNetwork",
    "SqueezeNetwork",
    "TrainedModel",
    "UNet",
    "UNet3d",
    "Vgg",
    "grades_of",
    "load_model",
    "logits_of",
    "outputs_for",
    "probabilities_of",
    "save_model",
]
