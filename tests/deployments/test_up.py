"""What keeps the services from starting is one line, said before anything starts."""

import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from deployments.services import commands, daemons, postgres, seaweedfs
from deployments.services.catalogue import ROOT
from deployments.services.daemons import ServiceError
from deployments.services.place import FREE, HOST, free_ports, make_place, open_place, write_settings
from editing.errors import UsageError
from tasks.settings import Settings


def test_a_port_that_is_taken_is_named_with_the_option_for_another(tmp_path):
    [port] = free_ports(["mlflow"]).values()
    with socket.create_server((HOST, port)), pytest.raises(UsageError) as caught:
        commands.up(tmp_path, {"mlflow": port}, True, None)
    assert str(caught.value) == f"port {port} for MLflow is taken: choose another, e.g. --port mlflow={port + 1}"
    assert not list((tmp_path / "run").iterdir()) and not (tmp_path / "postgres").exists()


@pytest.mark.parametrize(("missing", "says"), [("postgres", "apt-get install -y .*postgresql"), ("weed", "make up")])
def test_who_may_not_install_what_is_missing_is_told_what_it_is(tmp_path, monkeypatch, missing, says):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    if missing == "postgres":
        monkeypatch.setattr(postgres, "PACKAGES", str(tmp_path))
    else:
        monkeypatch.setattr(postgres, "needed", lambda: "")
        monkeypatch.setattr(seaweedfs.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ServiceError, match=says):
        commands.install_missing()


def test_passwords_and_ports_are_drawn_once_and_an_option_stays(tmp_path):
    first = make_place(tmp_path, {}, True, None)
    assert first.auth is False and set(first.ports.values()) <= set(FREE) and len(set(first.ports.values())) == 12
    again = make_place(tmp_path, {"mlflow": 5001}, False, True)
    assert again.secrets == first.secrets and again.ports == {**first.ports, "mlflow": 5001}
    assert open_place(tmp_path) == again == make_place(tmp_path, {}, False, None)
    assert first.secrets["mlflow"] not in repr(first)
    assert first.secrets != make_place(tmp_path / "other", {}, True, None).secrets


def test_the_file_of_settings_is_one_and_without_signing_in_it_holds_no_account(tmp_path, monkeypatch):
    path = tmp_path / "settings.toml"
    path.write_text('notify = "json://127.0.0.1:1"\nmlflow_username = "somebody"\n')
    write_settings(make_place(tmp_path, {}, True, None))
    monkeypatch.setenv("ERRATA_SETTINGS", str(path))
    settings = Settings()
    assert settings.mlflow_username == "" and settings.notify.get_secret_value() == "json://127.0.0.1:1"
    write_settings(make_place(tmp_path, {}, True, True))
    settings = Settings()
    assert (settings.mlflow_username, path.stat().st_mode & 0o777) == ("errata", 0o600)
    assert settings.prefect_auth.get_secret_value().startswith("errata:")


def test_a_damaged_file_of_ports_and_passwords_is_named(tmp_path):
    make_place(tmp_path, {}, True, None)
    (tmp_path / "services.json").write_text("{}")
    with pytest.raises(UsageError, match=r"services\.json cannot be read"):
        commands.status(tmp_path)


def test_nothing_of_what_a_person_has_set_reaches_a_service(monkeypatch):
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "AWS_SECRET_ACCESS_KEY", "ERRATA_HOME", "PGPASSWORD"):
        monkeypatch.setenv(name, "of a person")
    assert "of a person" not in commands.catalogue.environment().values()
    assert daemons.MARK not in psutil.Process().environ()


def test_who_is_killed_while_secrets_are_written_leaves_them_no_longer_than_until_the_next(tmp_path):
    write_settings(place := make_place(tmp_path, {}, True, None))
    killed = (
        "import os, sys; from pathlib import Path; from deployments.services import place as p; "
        "os.replace = lambda *names: os.kill(os.getpid(), 9); p.write_settings(p.open_place(Path(sys.argv[1])))"
    )
    assert subprocess.run([sys.executable, "-c", killed, tmp_path], cwd=ROOT).returncode == -signal.SIGKILL
    holding = [path for path in tmp_path.iterdir() if path.is_file() and place.secrets["s3"] in path.read_text()]
    assert len(holding) == 3  # the file of places, the settings, and what was written beside them
    write_settings(place)
    kept = {"services.json", "settings.toml"}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == kept
