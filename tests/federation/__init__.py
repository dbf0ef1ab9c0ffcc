"""Tests of the federation. Flower's command line warns of its own use of click when it is imported: that is not ours."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import flwr.app  # noqa: F401
