"""All services that production has, started once for these tests on free ports, in one folder."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from deployments.services import commands, daemons, packages, postgres
from deployments.services.catalogue import PRIVATE, ROOT, Service, all_services
from deployments.services.place import KEPT, PORTS, Place, free_ports, open_place, write_secret
from tasks.settings import Settings, told_to_clients
from tests.waiting import until

MODULE = "deployments.services"


@dataclass(frozen=True)
class Services:
    """Those of one folder. Who changes how they run leaves them as they were: `up` starts what a test has ended."""

    place: Place
    cache: Path

    @cached_property
    def settings(self) -> Settings:
        return Settings(**self.place.settings(), cache=self.cache)

    @property
    def environment(self) -> dict[str, str]:
        """Of a person who has set nothing but the file of settings."""
        private = (*PRIVATE, "NO_PROXY", "no_proxy")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(private)}
        return kept | {"ERRATA_SETTINGS": str(self.place.settings_file), "HF_HUB_OFFLINE": "1"}

    @property
    def people(self) -> dict[str, Any]:
        """Options of a browser's context in which MLflow knows who asks."""
        credentials = {"username": self.settings.mlflow_username, "origin": self.settings.tracking_uri}
        return {"http_credentials": credentials | {"password": self.settings.mlflow_password.get_secret_value()}}

    @property
    def signed_in(self) -> str:
        """A script for each page of a browser's context: with it, Prefect's pages know who asks."""
        return f"localStorage.setItem('prefect-password', btoa('{self.settings.prefect_auth.get_secret_value()}'))"

    def s3(self) -> Any:
        """A client of the S3 server."""
        return boto3.client(
            "s3", endpoint_url=self.settings.s3_endpoint_url, aws_access_key_id=self.settings.s3_access_key,
            aws_secret_access_key=self.settings.s3_secret_key.get_secret_value(), region_name="us-east-1",
        )  # fmt: skip

    def call(self, *arguments: str) -> tuple[list[str]]:
        return ([sys.executable, "-m", MODULE, *arguments, "--folder", str(self.place.folder)],)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`python -m deployments.services` for this folder."""
        return command(*arguments, "--folder", str(self.place.folder))

    def pid(self, name: str) -> int | None:
        found = daemons.running(self.place.pid_file(name))
        return found and found[0]

    def stop(self, name: str) -> None:
        """End a service politely."""
        commands.stop(self.place, self._service(name))

    def kill(self, name: str, alone: bool = False) -> None:
        """End a service at once, and what it has started, as if the machine failed; or alone."""
        path, pid = self.place.pid_file(name), self.pid(name)
        if not alone:
            daemons.stop(path, signal.SIGKILL)
        elif pid is not None:
            daemons.send(path, pid, signal.SIGKILL)
            until(lambda: self.pid(name) is None)

    def start(self, name: str) -> None:
        """Start a service that does not run, and all that have ended, and wait until they are well."""
        assert self.pid(name) is None
        ran = self.run("up")
        assert ran.returncode == 0, ran.stderr

    def _service(self, name: str) -> Service:
        return all_services()[name]


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    ran = [sys.executable, "-m", MODULE, *arguments]
    return subprocess.run(ran, cwd=ROOT, capture_output=True, text=True, timeout=300)


@contextmanager
def started(cache: Path, model: Path, like: Services | None = None) -> Iterator[Services]:
    """They ask who somebody is; new lines are of the model. They end with this process, however it ends.

    Args:
        cache: What commands and jobs keep for later.
        model: The base of new lines.
        like: Others, whose passwords they have, as where `services.json` was put back.

    Raises:
        ServiceError: Postgres is missing, or one does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="errata-services-"))
    keeper = subprocess.Popen(
        [sys.executable, "-m", "tests.services.keeper", str(folder)], stdin=subprocess.PIPE, cwd=ROOT
    )
    try:
        own = {"cache": cache, "model": model, "actor": "tester"}
        (folder / "settings.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in own.items()))
        if like is not None:
            kept = {"ports": free_ports(list(PORTS)), "secrets": dict(like.place.secrets), "auth": True}
            write_secret(folder / KEPT, json.dumps(kept))
        ran = command("up", "--free-ports", "--auth", "--folder", str(folder))
        if ran.returncode:
            raise daemons.ServiceError(ran.stderr)
        yield Services(open_place(folder), cache)
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(timeout=120)


@contextmanager
def used(services: Services) -> Iterator[Services]:
    """Inside, this process uses the services as a command does that knows the file of settings."""
    values = {"ERRATA_SETTINGS": str(services.place.settings_file), "PREFECT_HOME": str(services.cache / "prefect")}
    settings = services.settings
    server = {PREFECT_API_URL: settings.prefect_api_url, PREFECT_API_AUTH_STRING: settings.prefect_auth}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PRIVATE)]:
            patch.delenv(name)
        for name, value in {**values, **told_to_clients(settings)}.items():
            patch.setenv(name, value)
        with temporary_settings(server):
            yield services


@pytest.fixture(scope="package")
def services(tmp_path_factory: pytest.TempPathFactory, fact_model_path: Path) -> Iterator[Services]:
    """All services, for every test of this folder."""
    if postgres.needed() and not packages.installable():
        pytest.skip(f"missing and not to be installed here: {postgres.needed()}")
    with started(tmp_path_factory.mktemp("cache"), fact_model_path) as running:
        yield running


@pytest.fixture
def here(services: Services) -> Iterator[Services]:
    """The services, used by this process."""
    with used(services):
        yield services
