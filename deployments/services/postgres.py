"""Postgres: the packages, the folder of its data, the databases of Prefect and MLflow."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from deployments.services.asking import NotWell
from deployments.services.daemons import OPENED, Command, ServiceError, open_folder
from deployments.services.place import HOST, USER, Place

DATABASES = ("prefect", "mlflow")
SYSTEM_USER = "postgres"
PACKAGES = "/usr/lib/postgresql"
END = signal.SIGINT
"""Ends connections and the server at once, cleanly; SIGTERM would wait for the connections."""


def programs() -> Path | None:
    """The folder of the newest Postgres that is installed."""
    found = sorted(Path(PACKAGES).glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    named = shutil.which("postgres")
    return found[-1].parent if found else Path(named).resolve().parent if named else None


def needed() -> str:
    """What has to be installed before it can start; empty: nothing."""
    return "" if programs() else "postgresql"


def other_user() -> tuple[int, int] | None:
    """User and group that it runs as: it refuses root."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(SYSTEM_USER)
    return entry.pw_uid, entry.pw_gid


def prepare(place: Place, lock: int) -> None:
    """Make the folder of data, whole or not at all; `lock` is held by what works at it, however this process ends.

    Raises:
        ServiceError: Postgres cannot make it.
    """
    data, made = place.folder / "postgres", place.folder / "postgres.new"
    if data.exists():
        return
    if made.exists():
        shutil.rmtree(made)
    made.mkdir(mode=0o700)
    word = made.with_suffix(".word")
    word.write_text("")
    word.chmod(0o600)
    word.write_text(place.secrets["postgres"])
    user = other_user()
    if user:
        os.chown(made, *user)
        os.chown(word, *user)
    with open_folder(made) as descriptors, word.open() as file:
        name, given = (OPENED, f"/proc/self/fd/{file.fileno()}") if user else (str(made), str(word))
        command = [str(_programs() / "initdb"), "-D", name, "-U", USER, "--auth=scram-sha-256", f"--pwfile={given}"]
        done = subprocess.run(
            [*command, "-E", "UTF8", "--locale=C", "--no-instructions"],
            capture_output=True, text=True, cwd="/", pass_fds=[*descriptors, file.fileno(), lock],
            user=user and user[0], group=user and user[1], extra_groups=[] if user else None,
        )  # fmt: skip
    word.unlink()
    if done.returncode:
        raise ServiceError(f"Postgres cannot make {data}: {' '.join(done.stderr.split())[-300:]}")
    os.replace(made, data)


def command(place: Place) -> Command:
    data, user = place.folder / "postgres", other_user()
    options = {
        "listen_addresses": HOST,
        "port": place.ports["postgres"],
        "unix_socket_directories": "",
        "max_connections": 200,
        "log_min_messages": "warning",
        "log_statement": "none",
        "log_min_error_statement": "panic",  # a statement may hold what users wrote
    }
    settings = [part for option, value in options.items() for part in ("-c", f"{option}={value}")]
    arguments = [str(_programs() / "postgres"), "-D", OPENED if user else str(data), *settings]
    return Command(arguments, {}, Path("/"), user, data if user else None)


def check(place: Place) -> None:
    """Both databases answer; one that is missing is made.

    Raises:
        NotWell: the server does not take what is asked.
    """
    # Here, since where a package is still to be installed, the message about it comes first.
    import psycopg
    from psycopg import sql

    address = place.database("postgres", "postgresql")
    try:
        with psycopg.connect(address, autocommit=True, connect_timeout=5) as connection:
            there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in there:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg.Error as error:
        raise NotWell(" ".join(str(error).split())[:200]) from error


def _programs() -> Path:
    found = programs()
    if found is None:
        raise ServiceError("Postgres is not installed: apt-get install postgresql")
    return found
