"""Fixtures of secure aggregation."""

from tests.secagg.playing import federation

__all__ = ["federation"]
