"""Programs that start at once: forks of a process that has imported their modules.

Importing what trains networks takes seconds of computing. A `ForkServer` pays for that once. Every program
that it starts is a process of its own all the same: with its own environment, output, signals and end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from helpers.waiting import HANG
from helpers.worker_forks import program


class ForkServer:
    """A process that has imported `modules`, and starts programs as forks of itself."""

    def __init__(self, *modules: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        pipe, command = subprocess.PIPE, program("helpers.forked_programs", *modules)
        self._server = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        assert self._server.stdout is not None
        self._server.stdout.close()
        self._server.wait(HANG)

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Send a request to the server and return its answer."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        module: str,
        *arguments: object,
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ForkedProgram:
        """Start `main()` of a module; its output goes to a file, or nowhere."""
        request = {
            "module": module,
            "arguments": [str(argument) for argument in arguments],
            "output": os.devnull if output is None else str(output),
            "environment": dict(environment or {}),
        }
        return ForkedProgram(self, self.ask(request))


class ForkedProgram:
    """A program that a ForkServer has started."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Return the program's exit code, the negative number of the signal that ended it, or None."""
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid})
        return self.returncode

    def wait(self) -> int:
        """Wait for the program's end and return its exit code; raises AssertionError after HANG seconds."""
        end = time.monotonic() + HANG
        while (code := self.poll()) is None:
            assert time.monotonic() < end, f"a program has not ended after {HANG:.0f} s"
            time.sleep(0.01)
        return code


def _run(request: dict[str, Any]) -> None:
    """Run a program in this process, a fork, and end the process."""
    code = 1
    try:
        os.setsid()
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(request["environment"])
        sys.argv = [request["module"], *request["arguments"]]
        sys.modules[request["module"]].main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(modules: list[str]) -> None:
    """Import modules, then answer the requests on standard input until it ends."""
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # so that forks need not copy what they never change
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _run(request)
        print(json.dumps(answer), flush=True)
    os._exit(0)  # at once, without taking all modules apart


if __name__ == "__main__":
    _serve(sys.argv[1:])
