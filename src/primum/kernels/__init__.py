"""The fast loops, as machine code (numba), and their slow, obviously right twins in `reference.py`.

What comes in and goes out: NumPy arrays. No randomness of its own, no I/O, no notion of who is who. A kernel says in
its docstring what is secret among its arguments; the tests compare it with its twin.
Read first: `compiled.py`; importing this package does not import numba.

| file | what |
|---|---|
| compiled.py, threads.py | the decorator: compiled at the first call, kept for later processes; several threads for one task |
| emitted.py | parts of kernels as instructions, where numba's own code is not quick |
| packing.py | values of b bits in a string of bytes |
| galois.py | GF(2^8), for Shamir's sharing; constant time in what is secret |
| decoding.py | which of many shares are wrong |
| hadamard.py | the fast Walsh-Hadamard transform |
| rounding.py | real numbers to integers, up or down at random |
| accumulate.py | several rows added to one |
| alias.py | integers from alias tables and random words, for noise |
| words.py | values of 1 to 64 bits in a string of bytes, for ring elements |
| winograd.py, winograd_float.py | convolutions of 3 x 3 with fewer products: in Z_2^l, and in float32 with their gradients |
| pooling.py | the largest of each window, and back |
| limbs.py, device.py | convolutions in Z_2^l as int8 matrix products; the same on a graphics card |
| comparison.py | a sign from an opened value and one-time tables; constant time in what is secret |
| selection.py | cutting a product; choosing by a public bit between shares |
| reference.py | the twins |
"""
