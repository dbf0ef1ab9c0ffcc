"""The one tree of exceptions.

    PrimumError            everything that Primum raises on purpose; has a hint and an exit code
    ├── InputError     2   the user's file, folder, key or argument is wrong
    │   ├── StudyError     a study file
    │   ├── DataError      an image, a folder of images, labels, patients
    │   │   └── OtherClasses   a folder holds other classes, labels or masks than the study asks for
    │   └── ModelError     a model file or a deployment file
    ├── PeerError      3   the other side is wrong: garbage, bad signature, replay, wrong certificate
    ├── Refused        4   we say no: policy, consent, membership
    │   └── BudgetError    the privacy budget does not allow it
    ├── MachineError   5   this computer: port in use, disk, permissions
    └── Unavailable    6   nobody answers in time, or too few do

What was seen, what was expected and what to do: the message says the first two, `hint` the third. No value from an
image, a label or a key stands in either.
"""


class PrimumError(Exception):
    """Base of all errors that a user may see; printed as one or two lines, never as a stack trace."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(PrimumError):
    """A file, folder, key or argument given by the user is wrong."""

    exit_code = 2


class StudyError(InputError):
    """A study file is wrong: an unknown key, a value out of range, a missing signature."""


class DataError(InputError):
    """An image, a folder of images, its labels or its patients are unusable."""


class OtherClasses(DataError):
    """A folder holds other classes, labels or masks than the study asks for."""


class ModelError(InputError):
    """A model or deployment file is unusable."""


class PeerError(PrimumError):
    """The other side broke the protocol; names the peer and what it did."""

    exit_code = 3


class Refused(PrimumError):
    """This side says no, by policy, consent or membership."""

    exit_code = 4


class BudgetError(Refused):
    """The privacy budget that the hospital set does not allow it."""


class MachineError(PrimumError):
    """This computer cannot: port in use, disk full, permission denied."""

    exit_code = 5


class Unavailable(PrimumError):
    """Nobody answers in time, or too few do."""

    exit_code = 6
