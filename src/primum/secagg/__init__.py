"""Secure aggregation: the server learns the sum of the nodes' integer vectors and who is in it, nothing else.

What comes in: one integer vector a node, identities compared outside the system. What goes out: their sum, modulo 2^b,
equal to the plain integer sum to the last bit. No sockets, clock, files or Flower: messages in, messages out.
Read first: `messages.py`, then `node.py`; `server.py` is its mirror.

| file | what |
|---|---|
| setup.py | n, c, d, t, k_min: which set-ups are safe |
| graph.py | who is whose neighbour; the random graph of many members |
| messages.py | what is said, and by whom it is signed |
| roster.py | members by place, and the reading of what they signed |
| shamir.py | t-of-n sharing over GF(2^8) |
| masks.py | keys to masks, participants and model to digests; masked sums |
| session.py | one session's keys at a node: a secret with each neighbour |
| deal.py | one round's secrets, sealed to the neighbours |
| vector.py | named parts in one integer vector; no sum wraps |
| cost.py | exchanges, bytes, AES |
| node.py | a hospital's side, with the checks before it gives shares |
| server.py | the coordinator's side |

| symbol | what |
|---|---|
| n, c, d, h | members; how many may collude with the server; how many may vanish in a round; h = n - c |
| t | Shamir threshold, t = n - d |
| S_ij, k_ij | pair secret (ratcheted every round), round key of a pair |
| b_i | key of node i's self mask |
| l_i | key under which node i left the list of its round keys with the server |
| P, U | participants of a round; those whose masked vector came |

Standing on Bonawitz et al. (CCS 2017), Bell et al. (CCS 2020), Flamingo (S&P 2023), Kairouz, Liu, Steinke (ICML 2021).
"""

from primum.secagg.messages import Encapsulated, MaskedVector, Opening, Signed
from primum.secagg.node import Node
from primum.secagg.server import Aggregate, Blame, Server
from primum.secagg.setup import Setup, Shape

__all__ = [
    "Aggregate",
    "Blame",
    "Encapsulated",
    "MaskedVector",
    "Node",
    "Opening",
    "Server",
    "Setup",
    "Shape",
    "Signed",
]
