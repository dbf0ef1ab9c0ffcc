"""Federation: real processes over Flower. The only room that knows Flower.

Hub and spoke, synchronous rounds. `coordinator.py` runs SuperLink behind one TLS port; `node.py` is a hospital's
resident process; `scientist.py` submits and follows. Read first: `messages.py`, then `rounds.py` (the coordinator's
side of a run) and `participant.py` (a hospital's side): neither knows a network.

| file | what |
|---|---|
| messages.py | orders and replies |
| rounds.py, participant.py | the two sides of a run, without I/O of their own |
| runs.py, memory.py | what survives a crash: at the coordinator, at a node |
| policy.py | a hospital's own rules |
| enrolment.py | invitations and members |
| coordinator.py, front.py, superlink.py | the hub: process, TLS port, Flower's SuperLink on loopback |
| server_app.py, records.py | the program that Flower runs, and our bytes in its messages |
| node.py, fleet.py | the spoke: process, and Flower's Fleet interface |
| scientist.py | submit, follow, fetch |
"""
