"""The first look at a folder, before any study says how images are prepared: what some study could use."""

from collections.abc import Callable
from dataclasses import replace

from primum.imaging.folder import Intake
from primum.imaging.image import FolderError, Problem
from primum.imaging.prepare import IN_COLOUR, Preparation


def look(read: Callable[[Preparation], Intake]) -> Intake:
    """What `read` finds in grey; where it sets pictures aside because they are in colour, what it finds in colour.

    A notice counts those that only a study of three channels can use. Raises what `read` raises.
    """
    try:
        grey = read(Preparation())
    except FolderError as error:
        if not (coloured := _coloured(error.problems)):
            raise
    else:
        if not (coloured := _coloured(grey.problems)):
            return grey
    found = read(Preparation(channels=3))
    images = f"{coloured} image{' is' if coloured == 1 else 's are'} in colour"
    return replace(found, notices=(*found.notices, f"{images}: only a study with channels = 3 can use such images"))


def _coloured(problems: tuple[Problem, ...]) -> int:
    return sum(problem.reason == IN_COLOUR for problem in problems)
