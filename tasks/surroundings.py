"""What libraries read from the environment: set where the user has not, and made usable where it is not."""

import importlib.util
import logging
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from editing.errors import PolicyError
from tasks.addresses import SPECIAL, database_address
from tasks.secrets import without_secrets

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
DATABASE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
"""Where Prefect looks for the address of its database."""

logger = logging.getLogger(__name__)


def tell_libraries(home: Path, told: Mapping[str, str]) -> None:
    """Tell Prefect and MLflow where they live and to call nobody; what the user has set stays, but for what is empty.

    `told` are what more there is to tell, such as what signs in.

    Raises:
        PolicyError: Prefect's profiles cannot be read.
    """
    profiles = _users_profiles()
    defaults = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
        "PREFECT_CLI_WRAP_LINES": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "TOKENIZERS_PARALLELISM": "false",
    }
    defaults |= {name: value for name, value in told.items() if value}
    if profiles is not None:
        # The user's own profile names a server, perhaps; Prefect would look for it in the home that is set here.
        defaults["PREFECT_PROFILES_PATH"] = str(profiles)
    elif not os.environ.get("PREFECT_PROFILES_PATH"):
        os.environ.pop("PREFECT_PROFILES_PATH", None)
    for name, value in defaults.items():
        if not os.environ.get(name):
            os.environ[name] = value
    database = Path(os.environ["PREFECT_HOME"]).expanduser() / "prefect.db"
    if SPECIAL.search(str(database)) and not any(os.environ.get(name) for name in DATABASE):
        os.environ[DATABASE[0]] = database_address(database, "sqlite+aiosqlite")
    if address := _profiles_server():
        # Whoever does without Prefect (links, a decision that closes a form) finds it here.
        os.environ.setdefault("PREFECT_API_URL", address)
    _keep_loopback_direct()
    _drop_unusable_proxies()


def _users_profiles() -> Path | None:
    """The file of the user's own profiles of Prefect, where Prefect itself would not find it."""
    usual = Path("~/.prefect/profiles.toml").expanduser()
    own = os.environ.get("PREFECT_HOME") or os.environ.get("PREFECT_PROFILES_PATH")
    return usual if not own and usual.is_file() else None


def _profiles_server() -> str:
    """The server that Prefect's active profile names; empty where there is none.

    Raises:
        PolicyError: the profiles cannot be read.
    """
    named = os.environ.get("PREFECT_PROFILES_PATH") or str(Path(os.environ["PREFECT_HOME"], "profiles.toml"))
    path = Path(named).expanduser()
    try:
        found = tomllib.loads(path.read_text())
        active = os.environ.get("PREFECT_PROFILE") or found.get("active")
        return str(found.get("profiles", {}).get(active, {}).get("PREFECT_API_URL", ""))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise PolicyError(f"Prefect's profiles in {path} cannot be read ({error}): correct the file") from error


def _keep_loopback_direct() -> None:
    """Servers on this machine are never asked through a proxy; both spellings of the variable are read."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in (os.environ.get(name) or os.environ.get("NO_PROXY", "")).split(",") if host.strip()]
        missing = [host for host in LOOPBACK if host not in hosts]
        if "*" not in hosts:
            os.environ[name] = ",".join([*hosts, *missing])


def _drop_unusable_proxies() -> None:
    """Prefect's client fails at a proxy that it cannot use, also where it would go round it: such are not used."""
    for name in [name for name in os.environ if name.lower() in PROXIES]:
        if why := _unusable(os.environ[name].strip()):
            logger.warning("%s = '%s' is not used: %s", name, without_secrets(os.environ[name]), why)
            del os.environ[name]


def _unusable(proxy: str) -> str:
    """Why Prefect's client cannot use a proxy; empty where it can, or where none is named."""
    if not proxy:
        return ""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return "it is no address of a proxy"
    if parts.scheme in ("http", "https"):
        return ""
    if parts.scheme not in ("socks5", "socks5h"):
        return f"{parts.scheme}:// is no kind of proxy that is known; give http:// or socks5://"
    return "" if importlib.util.find_spec("socksio") else "a SOCKS proxy needs the package socksio: pip install socksio"
