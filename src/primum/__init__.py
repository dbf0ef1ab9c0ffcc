"""Primum: private medical imaging.

Hospitals train a model together and use it; no image, label or single hospital's update leaves the building in a
readable form. Start with the README; `docs/threat-model.md` says who can see what.
"""

__version__ = "0.1.0"
