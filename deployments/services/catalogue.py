"""Each service: how it starts, what has to be well before, and how to see that it is well."""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments.services import postgres, seaweedfs
from deployments.services.asking import NotWell, ask
from deployments.services.daemons import PATIENCE, Command
from deployments.services.place import BUCKET, HOST, POOL, USER, Place, write_secret
from flows.cli import accounts

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ("ERRATA_", "PREFECT_", "MLFLOW_", "AWS_", "PG")
"""Variables of the person who starts the services: no service reads them."""
QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PYTHONUNBUFFERED": "1",
}
RECEIVER = "deployments.webhooks"


@dataclass(frozen=True)
class Service:
    """One process and what it starts."""

    name: str
    what: str
    """As people read it."""
    port: str
    """Name of its port; empty: it has none."""
    needs: tuple[str, ...]
    command: Callable[[Place], Command]
    check: Callable[[Place], object]
    """Raises NotWell."""
    end: int = signal.SIGTERM
    """The signal that ends it politely."""
    patience: float = PATIENCE
    has_jobs: bool = False
    """What it has started goes on where it dies, and ends before it where it is ended, since it would kill it."""


def all_services() -> dict[str, Service]:
    """In the order in which they start."""
    services = [
        Service("postgres", "Postgres", "postgres", (), postgres.command, postgres.check, postgres.END),
        Service(
            "seaweedfs", "S3 (SeaweedFS)", "s3", (), seaweedfs.command, seaweedfs.check, patience=seaweedfs.PATIENCE
        ),
        Service("prefect", "Prefect", "prefect", ("postgres",), _prefect, _check_prefect),
        Service("mlflow", "MLflow", "mlflow", ("postgres",), _mlflow, _check_mlflow),
        Service("worker", "Prefect worker", "", ("prefect",), _worker, _check_worker, has_jobs=True),
    ]
    if importlib.util.find_spec(RECEIVER):
        services.append(Service("webhooks", "webhooks", "webhooks", ("mlflow", "prefect"), _webhooks, _check_webhooks))
    services.append(Service("logs", "log keeper", "", (), _logs, lambda place: None))
    return {service.name: service for service in services}


def environment() -> dict[str, str]:
    """What every service inherits: nothing of the settings of the person who starts it, and no proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    direct = ",".join((HOST, "localhost"))
    return {**kept, **QUIET, "NO_PROXY": direct, "no_proxy": direct}


def _python(*arguments: str, **own: str) -> Command:
    return Command([sys.executable, "-m", *arguments], own, ROOT)


def _prefect(place: Place) -> Command:
    own = {
        "PREFECT_HOME": str(place.folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": place.database("prefect", "postgresql+asyncpg"),
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    if place.auth:
        own["PREFECT_SERVER_API_AUTH_STRING"] = place.settings()["prefect_auth"]
    return _python("flows.cli.prefect_pages", HOST, str(place.ports["prefect"]), **own)


def _mlflow(place: Place) -> Command:
    port = place.ports["mlflow"]
    own = {
        "MLFLOW_BACKEND_STORE_URI": place.database("mlflow", "postgresql+psycopg"),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": place.url("s3"),
        "AWS_ACCESS_KEY_ID": USER,
        "AWS_SECRET_ACCESS_KEY": place.secrets["s3"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_UVICORN_OPTS": "--log-level warning",
        # Its webhooks go to our receiver, which listens on this machine.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": place.secrets["webhook-key"],
    }
    hosts = ",".join(f"{name}:{port}" for name in (HOST, "localhost"))
    options = ["--host", HOST, "--port", str(port), "--workers", "1", "--allowed-hosts", hosts, "--serve-artifacts"]
    if place.auth:
        options += ["--app-name", "basic-auth"]
        path = place.folder / "mlflow-accounts.ini"
        write_secret(path, accounts.accounts_file(place.database("mlflow", "postgresql+psycopg")))
        own |= accounts.environment(path, USER, place.secrets["mlflow"], place.secrets["sessions"])
    return _python("mlflow", "server", *options, **own)


def _ours(place: Place) -> dict[str, str]:
    return {"ERRATA_SETTINGS": str(place.settings_file), "PREFECT_HOME": str(place.folder / "prefect")}


def _worker(place: Place) -> Command:
    own = {**_ours(place), "PREFECT_API_URL": place.settings()["prefect_api_url"], "PREFECT_LOGGING_LEVEL": "INFO"}
    if place.auth:
        own["PREFECT_API_AUTH_STRING"] = place.settings()["prefect_auth"]
    options = ["--pool", POOL, "--type", "process", "--name", "worker", "--install-policy", "never"]
    return _python("prefect", "worker", "start", *options, **own)


def _webhooks(place: Place) -> Command:
    return _python(RECEIVER, "--host", HOST, "--port", str(place.ports["webhooks"]), **_ours(place))


def _logs(place: Place) -> Command:
    return _python("deployments.services.logs", str(place.folder / "logs"))


def _check_prefect(place: Place) -> None:
    ask(f"{place.url('prefect')}/api/ready", place.settings()["prefect_auth"])


def _check_mlflow(place: Place) -> None:
    signed_in = place.settings()
    sign_in = f"{signed_in['mlflow_username']}:{signed_in['mlflow_password']}" if place.auth else ""
    ask(f"{place.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1", sign_in)  # needs the database, too


def _check_worker(place: Place) -> None:
    workers = ask(
        f"{place.url('prefect')}/api/work_pools/{POOL}/workers/filter", place.settings()["prefect_auth"], data={}
    )
    if not any(worker["status"] == "ONLINE" for worker in workers):
        raise NotWell(f"no worker of the pool {POOL} is online")


def _check_webhooks(place: Place) -> None:
    ask(f"{place.url('webhooks')}/health")
