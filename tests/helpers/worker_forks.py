"""Test workers as forks of one process that has imported the libraries that all of them use.

Each worker of pytest-xdist would import torch, timm and the others by itself. Here the controller starts this
file as a server, which imports them once. Where pytest-xdist starts a worker, it starts this file as a client
instead: the client hands its streams to the server, whose fork is the worker. Programs that tests run may be
such forks too, if they end with their standard input: `program`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

MODULES = (
    "accelerate",
    "boto3",
    "diffusers",
    "numba",
    "pandas",
    "pyarrow.parquet",
    "s3fs",
    "seitpp_models",
    "sklearn.cluster",
    "torch",
    "torch.utils.data",
    "transformers",
    "zarr",
)
"""Modules that tests import. None of them starts a thread, and none is rewritten by pytest."""
_COMMAND = "TOKENSTORE_TESTS_PYTHON"
"""The environment variable that names the command of a client to workers."""
_STREAMS = 3
_PATIENCE_SECONDS = 20.0


def program(module: str, *arguments: str) -> list[str]:
    """Return the command of a module that ends with its standard input; signals do not reach the module."""
    code = f"import runpy, sys; sys.argv[1:] = {list(arguments)}"
    code += f"; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return [*shlex.split(os.environ.get(_COMMAND, sys.executable)), "-c", code]


@contextlib.contextmanager
def worker_python() -> Iterator[str]:
    """Run the server; give the command that takes the place of `python` where workers are started."""
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder, "socket"))
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, __file__, place], stdin=pipe, stdout=pipe) as server:
            assert server.stdout is not None
            server.stdout.readline()
            command = os.environ[_COMMAND] = shlex.join([sys.executable, "-IS", __file__, place])
            yield command
            del os.environ[_COMMAND]  # the server ends with its standard input


def serve(place: str) -> None:
    """Import the modules, and fork a worker for each connection, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the controller, and with it this process
    sys.path[0] = str(Path(__file__).parents[2])  # subtle: tests have folders of the packages' names
    workers = set()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        print("clients may come", flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module in MODULES:
                with contextlib.suppress(ImportError):
                    importlib.import_module(module)
        gc.collect()
        gc.freeze()  # so that forks need not copy what they never change
        while listener in select.select([listener, 0], [], [])[0]:
            connection, _ = listener.accept()
            worker = os.fork()
            if worker == 0:
                listener.close()
                _become_worker(connection)
            workers.add(worker)
            connection.close()
    _await(workers)
    os._exit(0)  # at once, without taking all modules apart


def _await(workers: set[int]) -> None:
    """Wait for the ends of processes; kill those that have not ended after a while."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while workers and time.monotonic() < end:
        workers -= {worker for worker in workers if os.waitpid(worker, os.WNOHANG)[0]}
        time.sleep(0.01)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)


def _become_worker(connection: socket.socket) -> NoReturn:
    """Take over a client's streams, folder, environment and program, run the program, and end."""
    request, streams, _, _ = socket.recv_fds(connection, 2**20, _STREAMS)
    while not request.endswith(b"\n"):
        request += connection.recv(2**20)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder, environment, program = json.loads(request)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0] = ["-c"], ""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    with connection:  # the client ends with it
        exec(program, main.__dict__)
    sys.exit()


def ask(place: str, program: str) -> NoReturn:
    """Hand this process's streams, folder and environment to the server; end when the worker has ended."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        request = json.dumps([str(Path.cwd()), dict(os.environ), program])
        socket.send_fds(connection, [b"["], range(_STREAMS))
        connection.sendall(request[1:].encode() + b"\n")
        connection.recv(1)
    os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        ask(sys.argv[1], sys.argv[-1])
