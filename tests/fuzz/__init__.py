"""Messages and files with something changed, at every doorway: a named refusal, never a crash and never taken for good.

The machinery is here, a few of each in the tests, many in `scripts/bench faults --only fuzz`.
"""
