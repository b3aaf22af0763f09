"""MLflow's own numbers of a line's versions, asked for without importing MLflow, which takes seconds."""

import base64
import json
import logging
import sqlite3
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tasks.addresses import database_file
from tasks.settings import Settings
from tasks.tracking.registry import VERSION

SECONDS = 2.0
"""How long somebody who only looks waits for MLflow."""
MOST = 200
"""Versions of a page of the server's answer."""
REGISTERED = "SELECT value, version FROM model_version_tags WHERE name = ? AND key = ?"

logger = logging.getLogger(__name__)


def mlflow_numbers(settings: Settings, line: str) -> dict[int, int]:
    """MLflow's number of each registered version, the newest where there are several; none where MLflow cannot tell.

    Asked are a server, or MLflow's database in a file; whoever only looks does not wait for another database.
    """
    uri = settings.mlflow_uri
    try:
        if uri.startswith(("http://", "https://")):
            found = list(_of_server(settings, uri, line))
        elif (file := database_file(uri)) is not None:
            found = _of_file(file, line)
        else:
            return {}
    except (OSError, ValueError, LookupError, TypeError, sqlite3.Error) as error:
        logger.debug("MLflow's numbers of line %s are not known: %s", line, error)
        return {}
    return {int(ours): number for ours, number in sorted(found, key=lambda one: one[1]) if ours.isdecimal()}


def _of_file(path: Path, line: str) -> list[tuple[str, int]]:
    address = f"file:{urllib.parse.quote(str(path))}?mode=ro"  # never made by a look
    with closing(sqlite3.connect(address, uri=True, timeout=SECONDS)) as connection:
        return [(str(ours), int(number)) for ours, number in connection.execute(REGISTERED, (line, VERSION))]


def _of_server(settings: Settings, uri: str, line: str) -> Iterator[tuple[str, int]]:
    asked = {"filter": f"name='{line}'", "max_results": str(MOST)}
    page: dict[str, Any] = {"next_page_token": ""}
    while (token := page.get("next_page_token")) is not None:
        query = urllib.parse.urlencode(asked | ({"page_token": token} if token else {}))
        page = _get(settings, f"{uri.rstrip('/')}/api/2.0/mlflow/model-versions/search?{query}")
        for one in page.get("model_versions", []):
            tags = {tag["key"]: tag["value"] for tag in one.get("tags", [])}
            if VERSION in tags:
                yield str(tags[VERSION]), int(one["version"])
        if not page.get("next_page_token"):
            return


def _get(settings: Settings, url: str) -> dict[str, Any]:
    request = urllib.request.Request(url)
    if settings.mlflow_username:
        known = f"{settings.mlflow_username}:{settings.mlflow_password.get_secret_value()}"
        request.add_header("Authorization", f"Basic {base64.b64encode(known.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        found: dict[str, Any] = json.load(answer)
        return found
