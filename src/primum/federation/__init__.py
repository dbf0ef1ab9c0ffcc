"""Federation: real processes over Flower. The only room that knows Flower.

Hub and spoke, synchronous rounds. `coordinator.py` runs SuperLink behind one TLS port; `node.py` is a hospital's
resident process; `scientist.py` submits and follows. Read first: `messages.py`, then `rounds.py` (the coordinator's
side of a run) and `participant.py` (a hospital's side): neither knows a network.

| file | what |
|---|---|
| messages.py | orders and replies |
| rounds.py, participant.py | the two sides of a run, without I/O of their own |
| runs.py, memory.py | what survives a crash: at the coordinator, at a node |
| policy.py, approval.py, desk.py | a hospital's own rules; who said yes to what; its people's side of that |
| control.py, supervision.py | stop, resume, status; the programs of all runs |
| looks.py, probe.py, evidence.py, witness.py | figures on the way; public numbers in each sum; what a run checked; journals that confirm each other |
| pins.py, restoring.py, figures.py, attendance.py | the next certificate; nodes made from a backup; what may be watched; who is there |
| enrolment.py | invitations and members |
| coordinator.py, front.py, superlink.py | the hub: process, TLS port, Flower's SuperLink on loopback |
| server_app.py, exchange.py, records.py | the program that Flower runs, its orders, and our bytes in Flower's messages |
| node.py, node_settings.py, fleet.py, way.py | the spoke: process, Flower's Fleet interface, proxies |
| parcels.py, parcel_desk.py, courier.py | long messages through breaks: both sides, the hub's, a node's |
| scientist.py | submit, follow, fetch |
"""
