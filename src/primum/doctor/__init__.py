"""Doctor: what stands between a computer and a federation. Looks, changes nothing, sends no token and no key.

In: a join file or an address, a state folder, a folder of images, each perhaps missing. Out: findings, one a check, and the
line that a hospital's IT must allow. Read `examination.py` first; `network.py` and `certificate.py` look at the way to the
coordinator, `machine.py` at this computer, `coordinator.py` at the hub's.
"""

from primum.doctor.examination import Examined, Subject, examine, what_to_allow

__all__ = ["Examined", "Subject", "examine", "what_to_allow"]
