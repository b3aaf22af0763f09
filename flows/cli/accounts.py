"""MLflow's own accounts, for a server that asks who somebody is."""

import secrets
from pathlib import Path

from editing.errors import UsageError
from tasks.addresses import database_address
from tasks.settings import Settings

ADMINISTRATOR = "admin"
LEAST_CHARACTERS = 12
OF_OLD = "password1234"
"""Stood in MLflow's own file once; it refuses it now."""


def accounts(settings: Settings) -> dict[str, str]:
    """What MLflow's server of this home needs in its environment to ask who somebody is.

    Raises:
        UsageError: MLflow does not take the password of the settings.
    """
    home, password = settings.home_folder, settings.mlflow_password.get_secret_value()
    if len(password) < LEAST_CHARACTERS or password == OF_OLD:
        raise UsageError(
            f"MLflow wants ERRATA_MLFLOW_PASSWORD to have {LEAST_CHARACTERS} characters or more, and its own"
        )
    path = home / "mlflow-accounts.ini"
    path.touch(mode=0o600)
    path.write_text(accounts_file(database_address(home / "mlflow-accounts.db")))
    name = settings.mlflow_username or ADMINISTRATOR
    return environment(path, name, password, secrets.token_urlsafe(32))


def environment(accounts_file: Path, name: str, password: str, key: str) -> dict[str, str]:
    """`key` signs the page on which the administrator makes accounts."""
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(accounts_file),
        "MLFLOW_AUTH_ADMIN_USERNAME": name,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": key,
    }


def accounts_file(database: str) -> str:
    """How MLflow keeps accounts. Who has one may review, so each may change what is there."""
    lines = [
        "[mlflow]",
        "default_permission = EDIT",
        f"database_uri = {database.replace('%', '%%')}",
        "grant_default_workspace_access = false",
        "auth_cache_ttl_seconds = 30",  # a password is derived anew for each request otherwise
        "",
    ]
    return "\n".join(lines)
