"""S3 servers for tests: moto, a real Ceph gateway, and a faulty network before them.

moto checks signatures. Run as a program, this file is the moto server: it prints its URL and ends with its
standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from helpers.fault_proxy import FaultProxy
from helpers.paths import TESTS
from helpers.worker_forks import program

REGION = "us-east-1"
_START_SECONDS = 300
_NO_PACKAGES = 3
"""The exit code of radosgw.sh where its packages cannot be had."""
_ALLOW_ALL = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}
_UNAUTHENTICATED_CALLS = 3
"""The number of calls that moto answers before it checks signatures: the calls that make the user."""


@dataclass(frozen=True)
class S3Server:
    """An S3 server and the credentials of a user who may do everything."""

    endpoint: str
    key: str
    secret: str = field(repr=False)
    region: str = REGION

    def storage_options(self, endpoint: str | None = None, **options: Any) -> dict[str, Any]:
        """Return s3fs's options for this server, or for an `endpoint` before it, overridden by `options`."""
        return {
            "key": self.key,
            "secret": self.secret,
            "endpoint_url": endpoint or self.endpoint,
            "client_kwargs": {"region_name": self.region},
            **options,
        }

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"bucket-{uuid.uuid4().hex}"
        request = AWSRequest("PUT", f"{self.endpoint}/{name}")
        S3SigV4Auth(Credentials(self.key, self.secret), "s3", self.region).add_auth(request)
        signed = urllib.request.Request(request.url, method="PUT", headers=dict(request.headers))
        with urllib.request.urlopen(signed, timeout=_START_SECONDS):
            return name


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """Run moto in a process of its own, which refuses whatever is not rightly signed."""
    modules = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))  # benchmarks lack it
    environment = {
        **os.environ,
        "INITIAL_NO_AUTH_ACTION_COUNT": str(_UNAUTHENTICATED_CALLS),
        "PYTHONPATH": modules,
    }
    command, pipe = program("helpers.object_storage"), subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
            endpoint = process.stdout.readline().strip() if ready else ""
            if not endpoint:
                raise RuntimeError(f"moto did not start within {_START_SECONDS} s")
            _iam(endpoint, "CreateUser", UserName="tests")
            created = _iam(endpoint, "CreateAccessKey", UserName="tests")
            policy = json.dumps(_ALLOW_ALL)
            _iam(endpoint, "PutUserPolicy", UserName="tests", PolicyName="all", PolicyDocument=policy)
            key, secret = (
                re.findall(f"<{name}>(.*?)</{name}>", created)[0]
                for name in ("AccessKeyId", "SecretAccessKey")
            )
            yield S3Server(endpoint, key, secret)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def _iam(endpoint: str, action: str, **parameters: str) -> str:
    data = urllib.parse.urlencode({"Action": action, "Version": "2010-05-08", **parameters}).encode()
    scope = f"AWS4-HMAC-SHA256 Credential=none/20200101/{REGION}/iam/aws4_request"
    request = urllib.request.Request(endpoint, data, {"Authorization": scope})
    with urllib.request.urlopen(request, timeout=_START_SECONDS) as answer:
        return str(answer.read().decode())


@contextlib.contextmanager
def radosgw() -> Iterator[S3Server]:
    """Run a Ceph gateway; its packages stay in $TOKENSTORE_RADOSGW for the next run.

    Skips the test if this machine has no packages.
    """
    folder = os.environ.get("TOKENSTORE_RADOSGW") or str(Path(tempfile.gettempdir(), "tokenstore-radosgw"))
    script = str(Path(__file__).with_name("radosgw.sh"))
    command = ["bash", script, "start", folder, str(_two_free_ports())]
    started = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        if started.returncode == _NO_PACKAGES:
            pytest.skip(f"no Ceph gateway: {started.stderr.strip()}")
        assert started.returncode == 0, started.stderr
        yield S3Server(**json.loads(started.stdout))
    finally:
        subprocess.run(["bash", script, "stop", folder], check=True)


def _two_free_ports() -> int:
    """Return the first of two neighbouring free ports."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first, contextlib.suppress(OSError):
            port = int(first.getsockname()[1])
            with socket.create_server(("127.0.0.1", port + 1)):
                return port


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Run one moto server for the whole test run."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def rados_gateway() -> Iterator[S3Server]:
    """Run one real S3 server for the whole test run, for tests marked s3_real."""
    with radosgw() as server:
        yield server


@pytest.fixture
def fault_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """Run a network before the moto server that does what its plan says."""
    with FaultProxy(s3_server.endpoint) as proxy:
        yield proxy


def serve() -> None:
    """Run moto's S3 and IAM, without moto's search through all services, which takes a third of its time."""
    import logging

    from moto.server import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    services = {name: create_backend_app(name) for name in ("s3", "iam")}

    def dispatch(environ: dict[str, Any], start_response: Any) -> Any:
        is_iam = "/iam/aws4_request" in environ.get("HTTP_AUTHORIZATION", "")
        return services["iam" if is_iam else "s3"](environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, dispatch, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
    server.server_close()  # before anybody is told of this program's end
    os._exit(0)  # at once, without taking all modules apart


if __name__ == "__main__":
    serve()
