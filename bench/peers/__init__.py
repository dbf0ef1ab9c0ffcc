"""The other side of a benchmark: programs that run a peer's library, each in an environment of its own.

`*.txt` are the pinned requirements of each. A program prints one line of JSON, and may import nothing of Primum.
"""
