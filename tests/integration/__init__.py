"""Tests with real processes on loopback."""

import tests.federation  # noqa: F401  (imports Flower, whose command line warns)
