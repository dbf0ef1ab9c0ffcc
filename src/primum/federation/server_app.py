"""The server program that Flower runs for a study: installed code, started by a bundle of three lines.

It joins `rounds.py` to Flower's Grid and writes into the coordinator's state folder (PRIMUM_STATE). The whole protocol
is ours; Flower carries bytes.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from primum.errors import PrimumError
from primum.federation.aggregation import Halted
from primum.federation.bells import FRONT, listening, ring
from primum.federation.enrolment import Register
from primum.federation.exchange import GridExchange
from primum.federation.parcels import ParcelStore
from primum.federation.records import wait_briefly, was_taken
from primum.federation.rounds import Rounds
from primum.federation.runs import FAILED, FINISHED, RUNNING, STOPPED, Run
from primum.keys.identity import Identity
from primum.study import Study

_ASK_ANYWAY: Final = 0.25  # seconds
app = ServerApp()
client = ClientApp()  # Flower asks for one; hospitals run installed code and never load it


class Log:
    """What the operator of the coordinator can read later: log.txt in the run's folder, and standard error."""

    def __init__(self, run: Run) -> None:
        self._path = run.folder / "log.txt"

    def __call__(self, text: str) -> None:
        """One line."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
        sys.stderr.write(line)


def end_with_parent(parent: int) -> None:
    """End this process when Flower's process that started it is gone, which cannot be noticed in another way.

    A server program whose coordinator was killed would hold the run, and ask a SuperLink that is gone, for minutes.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@contextmanager
def exchange_over(
    grid: Grid, state: Path, identity: Identity, run: Run, members: tuple[bytes, ...], say: Callable[[str], None]
) -> Iterator[GridExchange]:
    """Flower's Grid as the exchange of one run, with the bells of this state folder."""
    with listening(state, run.name) as bell:
        yield GridExchange(
            grid,
            identity,
            members,
            Register(state),
            say,
            parcels=ParcelStore.at(state),
            heard=run.heard,
            interrupted=lambda: run.stop_asked,
            taken=lambda name: was_taken(grid, name),
            ring=lambda: ring(state, FRONT),
            wait=lambda: bell.wait(_ASK_ANYWAY),
        )


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder is named in the run's configuration."""
    wait_briefly()
    threading.Thread(target=end_with_parent, args=(os.getppid(),), daemon=True).start()
    state = Path(os.environ["PRIMUM_STATE"])
    run = Run(state / "runs" / Path(str(context.run_config["run"])).name)
    identity = Identity.load_or_make(state / "identity.pem")
    lock = run.lock()  # the program of a coordinator that was killed may still be ending
    run.set_status(RUNNING)
    say = Log(run)
    try:
        members = Study.parse(run.signed_study().text, "the study").hospitals.identities()
        with exchange_over(grid, state, identity, run, members, say) as exchange:
            carry_out(Rounds(run, identity, exchange, say), run, say)
    except Exception as error:  # whoever waits for the run must hear why it ended
        say(traceback.format_exc())
        run.set_status(FAILED, f"the server program failed: {type(error).__name__}: {error}"[:500])
    lock.close()


def carry_out(rounds: Rounds, run: Run, say: Callable[[str], None]) -> None:
    """The run from its beginning, or from where it stood still, to its end; its status and the hospitals hear how."""
    try:
        rounds.run_all()
        state, message = FINISHED, ""
    except Halted as error:
        state, message = STOPPED, error.message
    except PrimumError as error:
        state, message = FAILED, str(error)
    if message:
        say(message)
    run.set_status(state, message)
    rounds.tell_end(state)  # and not why: the reason may be about one hospital, and the others would read it
