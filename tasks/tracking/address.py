"""Where MLflow is: its address checked quickly, and its settings, before a line of MLflow runs.

MLflow itself retries a database that cannot be opened for some 100 seconds and a server for minutes; a job should fail
at once with the remedy instead.
"""

import contextlib
import logging
import os
import re
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

from tasks.addresses import SCHEME, asked
from tasks.secrets import without_secrets
from tasks.tracking.errors import TrackingError, TrackingUnavailable

CONNECT_SECONDS = 5


def quiet_mlflow() -> None:
    """Settings that MLflow reads when it is imported or called; what the user has set stays."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    }.items():
        os.environ.setdefault(name, value)
    # It writes a traceback for each failure of a database before it raises: of a lock that is waited for, too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def first_line(error: BaseException) -> str:
    """What an exception says, on one line, without secrets; of SQLAlchemy's, what the database itself said."""
    said = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None) or error
    lines = str(said).strip().splitlines()
    return without_secrets(lines[0][:300] if lines else type(error).__name__).rstrip(". ")


def check_reachable(tracking_uri: str) -> None:
    """Raise TrackingError, within seconds, when nothing usable answers at the address."""
    scheme = tracking_uri.partition(":")[0].partition("+")[0]
    shown = without_secrets(tracking_uri)
    if scheme in ("http", "https"):
        _check_server(tracking_uri, shown)
    elif scheme == "sqlite":
        _check_sqlite(tracking_uri, shown)
    elif scheme in ("postgresql", "mysql", "mssql"):
        _check_database(tracking_uri, shown)
    else:
        raise TrackingError(
            f"MLflow tracking URI {shown!r} is no server and no database (MLflow 3 refuses a plain folder): "
            "use for example sqlite:///mlflow.db, postgresql://host/mlflow or http://127.0.0.1:5000"
        )


def check_usable(tracking_uri: str, artifact_root: str) -> None:
    """Raise TrackingError for what no waiting mends: an address that MLflow cannot use, or whose library is missing."""
    with contextlib.suppress(TrackingUnavailable):
        check_reachable(tracking_uri)
    scheme = SCHEME.match(artifact_root)
    if scheme is None or scheme[0].lower() in ("file", "s3"):
        return
    quiet_mlflow()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # it takes seconds

    try:
        get_artifact_repository(artifact_root, tracking_uri=tracking_uri)
    except Exception as error:  # each kind of store has a library of its own
        raise TrackingError(
            f"MLflow's artifacts cannot be kept at '{without_secrets(artifact_root)}' ({first_line(error)}): install "
            "what MLflow needs there, or correct ERRATA_ARTIFACTS"
        ) from error


def artifact_location(root: str | None, experiment: str) -> str | None:
    """The artifact folder of an experiment as a URI; a local folder is created. None stays the server's choice."""
    if root is None:
        return None
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", experiment)
    if SCHEME.match(root):
        return f"{root.rstrip('/')}/{name}"
    folder = Path(root).expanduser().resolve() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(
            f"artifact folder {str(folder)!r} cannot be created ({error.strerror}): choose a writable one"
        ) from error
    return folder.as_uri()


def artifact_address(root: str) -> str:
    """The address of a folder of artifacts; one that is an address already stays."""
    return root if SCHEME.match(root) else Path(root).expanduser().resolve().as_uri()


def _check_server(uri: str, shown: str) -> None:
    try:
        with urllib.request.urlopen(asked(f"{uri.rstrip('/')}/health"), timeout=CONNECT_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # it answers; whether it is MLflow and lets us in, the first call will tell
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        kind = TrackingError if isinstance(error, ValueError) else TrackingUnavailable
        raise kind(
            f"no MLflow server answers at {shown} ({reason}): start it with 'mlflow server' or correct the tracking URI"
        ) from error


def _check_sqlite(uri: str, shown: str) -> None:
    # Imported here, as below: what does not talk to MLflow does without.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        path = Path(make_url(uri).database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=CONNECT_SECONDS)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        finally:
            connection.close()
    except (OSError, sqlite3.Error, ArgumentError) as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise TrackingUnavailable(f"MLflow database {shown} is locked by another process; try again") from error
        raise TrackingError(
            f"MLflow database {shown} cannot be used ({first_line(error)}): restore the file from a backup, or move it "
            "away and correct the path, so that a new one is created"
        ) from error


def _check_database(uri: str, shown: str) -> None:
    from sqlalchemy import create_engine  # takes seconds, and only whoever tracks needs it
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    try:
        engine = create_engine(uri, connect_args={"connect_timeout": CONNECT_SECONDS})
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError) as error:  # its driver is imported by name
        kind = TrackingUnavailable if isinstance(error, OperationalError) else TrackingError
        raise kind(
            f"MLflow database {shown} cannot be used ({first_line(error)}): start it, install its driver, or correct "
            "the tracking URI"
        ) from error
