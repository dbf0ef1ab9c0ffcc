"""Models: fixed feature maps and small trainable layers, and a model on disk.

In: images float32 [n, channels, size, size] in [0, 1]. Out: features of length at most 1, logits, probabilities.
Read `scattering.py` first (the default front end), then `linear.py` (what is learned) and `card.py` (what is saved).
Sources: Bruna and Mallat 2013 (scattering), Tramèr and Boneh 2021 (why fixed features under differential privacy).
"""

from primum.models.card import Card, FrontEndCard, TrainedModel, load_model, save_model
from primum.models.linear import LinearHead, logits_of, outputs_for
from primum.models.scattering import FrontEnd

__all__ = [
    "Card",
    "FrontEnd",
    "FrontEndCard",
    "LinearHead",
    "TrainedModel",
    "load_model",
    "logits_of",
    "outputs_for",
    "save_model",
]
