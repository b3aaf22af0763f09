"""What `up`, `down` and `status` promise, on the services themselves."""

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from deployments.services import daemons
from deployments.services.catalogue import all_services
from deployments.services.place import write_settings
from tests.services.conftest import Services, command

NAMES = tuple(all_services())
OWN = ("services.json", "settings.toml", "mlflow-accounts.ini")
"""Files that hold secrets."""


def states(services: Services) -> tuple[int, list[str]]:
    """Exit code of `status` and the names of services that it calls stopped."""
    ran = services.run("status")
    assert ran.stderr == ""
    rows = [line for line in ran.stdout.splitlines() if line.startswith("│")]
    return ran.returncode, [row.split("│")[4].split("/")[-1].split(".")[0] for row in rows if " stopped " in row]


def test_up_twice_starts_nothing_twice_and_keeps_what_a_person_has_set(services: Services):
    before = {name: services.pid(name) for name in NAMES}
    assert None not in before.values()
    settings = services.place.settings_file.read_text()
    assert 'actor = "tester"' in settings
    ran = services.run("up")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert {name: services.pid(name) for name in NAMES} == before
    assert services.place.settings_file.read_text() == settings
    assert services.settings.tracking_uri in ran.stdout and str(services.place.settings_file) in ran.stdout


def test_a_killed_service_is_seen_and_started_again(services: Services):
    assert states(services) == (0, [])
    before = {name: services.pid(name) for name in NAMES}
    client = services.s3()
    client.put_object(Bucket="errata", Key="kept", Body=b"as it was")
    for name in ("seaweedfs", "worker"):
        services.kill(name, alone=True)
    assert states(services) == (1, ["seaweedfs", "worker"])
    assert services.run("up").returncode == 0
    assert client.get_object(Bucket="errata", Key="kept")["Body"].read() == b"as it was"
    after = {name: services.pid(name) for name in NAMES}
    assert {name for name in NAMES if after[name] != before[name]} == {"seaweedfs", "worker"}


def test_up_can_be_killed_at_any_moment(services: Services):
    """What is killed while it starts a service leaves one that the next finds, or none."""
    for seconds in (0.3, 0.6, 0.9):
        services.kill("worker")
        services.kill("logs")
        with subprocess.Popen(*services.call("up")) as killed:
            time.sleep(seconds)
            killed.kill()
    assert services.run("up").returncode == 0
    assert states(services) == (0, [])
    own = [process for process in psutil.process_iter() if marked(process, services.place.pid_file("worker"))]
    assert [process.pid for process in own] == [services.pid("worker")]


def marked(process: psutil.Process, path: Path) -> bool:
    try:
        return daemons.environment_of(process).get(daemons.MARK) == str(path)
    except psutil.Error:
        return False


def test_no_secret_is_in_a_command_line_or_a_log_and_files_with_one_are_their_owners(services: Services):
    secrets = [secret for secret in services.place.secrets.values() if len(secret) > 20]
    assert len(secrets) == len(services.place.secrets)
    lines = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert str(services.place.ports["mlflow"]) in lines
    shown = [lines, *(log.read_text(errors="replace") for log in (services.place.folder / "logs").iterdir())]
    assert not [secret for secret in secrets for text in shown if secret in text]
    files = [path for path in services.place.folder.rglob("*") if path.name in OWN]
    assert {path.name for path in files} == set(OWN)
    assert all(path.stat().st_mode & 0o77 == 0 for path in [services.place.folder, *files])
    holding = [path for path in services.place.folder.glob("*") if path.is_file() and path.name not in OWN]
    assert not [path for path in holding for secret in secrets if secret.encode() in path.read_bytes()]


def test_every_server_listens_on_this_machine_alone(services: Services):
    connections = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    ports = set(services.place.ports.values())
    listening = {c.laddr.port: c.laddr.ip for c in connections if c.laddr.port in ports}
    known = ("postgres", "s3", "prefect", "mlflow", "master")
    assert {services.place.ports[name] for name in known} <= set(listening)
    assert set(listening.values()) == {"127.0.0.1"}


def test_a_file_of_settings_that_is_none_is_named(services: Services, tmp_path: Path):
    path = services.place.settings_file
    before = path.read_text()
    try:
        path.write_text("what is this")
        ran = services.run("up")
        assert ran.returncode == 2 and ran.stderr.startswith(f"error: {path}: ") and ran.stderr.count("\n") == 1
    finally:
        path.write_text(before)
    write_settings(services.place)
    assert path.read_text() == before


@pytest.mark.parametrize(("arguments", "says"), [
    (("status",), "no services in"),
    (("down",), "no services in"),
    (("up", "--port", "mlflow=0"), "must read NAME=NUMBER"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path: Path, arguments: tuple[str, ...], says: str):
    ran = command(*arguments, "--folder", str(tmp_path))
    assert ran.returncode == 2 and says in ran.stderr.splitlines()[-1] and "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []
