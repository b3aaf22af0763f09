"""The folder of the services: ports and secrets, made once and kept, and the settings that commands use them by."""

import base64
import glob
import json
import random
import secrets
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editing.errors import UsageError
from editing.files import write_atomically

HOST = "127.0.0.1"
USER = "errata"
"""Who signs in everywhere, and owns the databases."""
BUCKET = "errata"
POOL = "errata"
PORTS = {
    "postgres": 5442,
    "s3": 8333,
    "prefect": 4200,
    "mlflow": 5000,
    "webhooks": 4300,
    # SeaweedFS's parts find each other by these; nobody else needs them.
    "master": 19333,
    "volume": 19334,
    "filer": 19335,
    "master-grpc": 19343,
    "volume-grpc": 19344,
    "filer-grpc": 19345,
    "s3-grpc": 19346,
}
SECRETS = ("postgres", "s3", "prefect", "mlflow", "sessions", "webhooks", "volumes")
FREE = range(15000, 32000)
"""Where free ports are looked for: below those that the system gives to outgoing connections."""
KEPT = "services.json"
SETTINGS = "settings.toml"


@dataclass(frozen=True)
class Place:
    """One folder with all that the services keep; whoever can read `secrets` can do anything in them."""

    folder: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str] = field(repr=False)
    auth: bool

    @property
    def settings_file(self) -> Path:
        return self.folder / SETTINGS

    def url(self, name: str) -> str:
        return f"http://{HOST}:{self.ports[name]}"

    def database(self, name: str, driver: str) -> str:
        return f"{driver}://{USER}:{self.secrets['postgres']}@{HOST}:{self.ports['postgres']}/{name}"

    def pid_file(self, service: str) -> Path:
        return self.folder / "run" / f"{service}.pid"

    def log(self, service: str) -> Path:
        return self.folder / "logs" / f"{service}.log"

    def settings(self) -> dict[str, str]:
        """What a command needs to work with these services."""
        signed_in = {
            "mlflow_username": USER,
            "mlflow_password": self.secrets["mlflow"],
            "prefect_auth": f"{USER}:{self.secrets['prefect']}",
        }
        return {
            "home": str(self.folder / "home"),
            "store": f"s3://{BUCKET}/snapshots",
            "ledger": f"s3://{BUCKET}/ledger",
            "tracking_uri": self.url("mlflow"),
            "artifacts": "mlflow-artifacts:/",  # MLflow's server hands them on
            "s3_endpoint_url": self.url("s3"),
            "s3_access_key": USER,
            "s3_secret_key": self.secrets["s3"],
            "prefect_api_url": f"{self.url('prefect')}/api",
            "webhook_secret": self.secrets["webhooks"],
            **{name: value if self.auth else "" for name, value in signed_in.items()},
        }


def open_place(folder: Path) -> Place:
    """The place that an earlier `up` made.

    Raises:
        UsageError: there is none, or what is kept of it cannot be read.
    """
    try:
        kept = json.loads((folder / KEPT).read_text())
        return Place(folder, kept["ports"], kept["secrets"], kept["auth"])
    except FileNotFoundError as error:
        raise UsageError(f"no services in {folder}: start them with `make up`, or name their --folder") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / KEPT} cannot be read ({error}): put back a copy, since it holds the passwords of what is kept "
            f"in {folder}"
        ) from error


def make_place(folder: Path, ports: Mapping[str, int], free: bool, auth: bool | None) -> Place:
    """The place, made if it is not there; `ports` and `auth`, where they are given, stand from now on."""
    for name in ("", "run", "logs", "home", "prefect", "seaweedfs", "seaweedfs/data"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    if (folder / KEPT).exists():
        before = open_place(folder)
    else:
        chosen = free_ports(list(PORTS)) if free else PORTS
        before = Place(folder, chosen, new_secrets(), False)
    place = Place(
        folder, {**PORTS, **before.ports, **ports}, {**new_secrets(), **before.secrets},
        before.auth if auth is None else auth,
    )  # fmt: skip
    kept = {"ports": place.ports, "secrets": place.secrets, "auth": place.auth}
    write_secret(folder / KEPT, json.dumps(kept, indent=1))
    return place


def new_secrets() -> dict[str, str]:
    # A key of Fernet, by which MLflow encrypts what it keeps of webhooks.
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return {**{name: secrets.token_urlsafe(24) for name in SECRETS}, "webhook-key": key}


def free_ports(names: list[str]) -> dict[str, int]:
    """A port for each name that nobody listens on."""
    found: dict[str, int] = {}
    while len(found) < len(names):
        port = random.choice(FREE)
        if port not in found.values() and is_free(port):
            found[names[len(found)]] = port
    return found


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def write_settings(place: Place) -> None:
    """The file for ERRATA_SETTINGS; what a person has added to it stays.

    Raises:
        UsageError: the file that is there cannot be read.
    """
    path = place.settings_file
    try:
        before: dict[str, Any] = tomllib.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UsageError(f"{path}: {error}; correct the file or remove it") from error
    values = {name: value for name, value in {**before, **place.settings()}.items() if value != ""}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    write_secret(path, "\n".join(["# Written by `make up`, which keeps what else stands here.", *lines, ""]))


def write_secret(path: Path, text: str) -> None:
    """A file that only its owner reads, as `write_atomically` makes every file; whole or not at all.

    What a killed process had written beside it goes, as it holds secrets, too: one process at a time writes here.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        left.unlink(missing_ok=True)
    write_atomically(path, text.encode())
