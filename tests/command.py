"""The `primum` command as a process of its own that starts at once: forked from one that has everything imported.

Most of what a command takes in a test is importing torch and Flower. A worker keeps one process that has done so, and
forks it for each command: own memory, arguments, environment, output and exit code. Commands that need a terminal, and
tests of what a start imports, start Python anew.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

_SERVER = """
import json, os, sys, traceback
import primum.diagnosis.data_owner, primum.diagnosis.results, primum.diagnosis.deploy, primum.federation.node
import primum.federation.scientist, primum.federation.scoring, primum.federation.explain, primum.report
import primum.tasks.simulation, primum.imaging.masked
from primum.cli import main
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(task["out"], os.O_WRONLY), 1)
        os.dup2(os.open(task["err"], os.O_WRONLY), 2)
        sys.stdin = open(0)
        os.environ.clear()
        os.environ.update(task["environment"])
        os.chdir(task["folder"])
        sys.argv, code = ["primum", *task["arguments"]], 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@lru_cache(maxsize=1)
def _server() -> "subprocess.Popen[str]":
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    atexit.register(server.kill)
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return server


def run_command(
    *arguments: str | os.PathLike[str], timeout: float = 120, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """`primum` with these arguments, nothing at standard input; `environment` is added to the worker's."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name) / "out", Path(name) / "err"
        out.touch()
        err.touch()
        task = {
            "arguments": [str(argument) for argument in arguments],
            "out": str(out),
            "err": str(err),
            "folder": str(Path.cwd()),
            "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
        }
        server.stdin.write(json.dumps(task) + "\n")
        if not select.select([server.stdout], [], [], timeout)[0]:
            server.kill()
            _server.cache_clear()
            raise subprocess.TimeoutExpired(task["arguments"], timeout)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(task["arguments"], code, out.read_text(), err.read_text())
