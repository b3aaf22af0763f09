"""Where everything is: read from `ERRATA_*` environment variables; the defaults need nothing but a home folder."""

import getpass
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from editing.edit import shown
from editing.errors import PolicyError


class Settings(BaseSettings):
    """Places and names. Secrets (S3 keys, database passwords) are never here: boto3 and drivers find their own."""

    model_config = SettingsConfigDict(env_prefix="ERRATA_", env_ignore_empty=True, extra="ignore", frozen=True)

    home: Path = Field(Path("~/.errata"), description="Folder of the ledger, snapshots and databases.")
    cache: Path = Field(Path("~/.cache/errata"), description="Folder of models, key statistics and searched values.")
    store: str = Field("", description="Snapshots: a folder or s3://bucket/prefix; empty: HOME/snapshots.")
    ledger: str = Field("", description="Delta table of events: a folder or s3://bucket/path; empty: HOME/ledger.")
    tracking_uri: str = Field("", description="MLflow's store or server; empty: HOME/mlflow.db.")
    artifacts: str = Field("", description="Where MLflow keeps artifacts; empty: HOME/artifacts.")
    s3_endpoint_url: str | None = Field(None, description="Endpoint of an S3 server other than AWS.")
    actor: str = Field("", description="Who acts, as the ledger names it; empty: the user's login name.")
    model: str = Field("embedded", description="Base of a new line: 'embedded', a folder, a hub id or a GGUF file.")
    dtype: str = Field("float32", description="dtype of the weights of a new line.")
    device: str = Field("cpu", description="Device that models run on.")

    @field_validator("store", "ledger")
    @classmethod
    def _is_served(cls, place: str) -> str:
        """A folder, s3://, or file:// as the folder that it names; no other scheme is served."""
        scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+(?=://)", place)
        if scheme is None or scheme[0] == "s3":
            return place
        if scheme[0].lower() != "file":
            raise ValueError(f"{scheme[0]}:// is not served; give a folder or s3://BUCKET/PATH")
        host, _, path = place.partition("://")[2].partition("/")
        if host not in ("", "localhost") or not path:
            raise ValueError("file:// names a folder of this machine, e.g. file:///srv/errata")
        return "/" + unquote(path)

    @property
    def home_folder(self) -> Path:
        return self.home.expanduser().resolve()

    @property
    def cache_folder(self) -> Path:
        return self.cache.expanduser().resolve()

    @property
    def store_uri(self) -> str:
        return self.store or str(self.home_folder / "snapshots")

    @property
    def ledger_uri(self) -> str:
        return self.ledger or str(self.home_folder / "ledger")

    @property
    def mlflow_uri(self) -> str:
        return self.tracking_uri or f"sqlite:///{self.home_folder / 'mlflow.db'}"

    @property
    def artifact_root(self) -> str:
        return self.artifacts or str(self.home_folder / "artifacts")

    @property
    def who(self) -> str:
        try:
            return self.actor or getpass.getuser()
        except (KeyError, OSError):  # a container whose user has no entry
            return f"user {os.getuid()}"


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment, with overrides of the caller.

    Raises:
        PolicyError: a value is out of range, or the home folder cannot be written.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(["ERRATA", *(str(part).upper() for part in first["loc"])])
        raise PolicyError(
            f"setting {name} = {shown(first.get('input'))}: {first['msg'].removeprefix('Value error, ')}"
        ) from error
    try:
        settings.home_folder.mkdir(parents=True, exist_ok=True)
        settings.cache_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyError(
            f"cannot create {error.filename}: {error.strerror}; set ERRATA_HOME / ERRATA_CACHE"
        ) from error
    except RuntimeError as error:
        raise PolicyError(f"'~' is nowhere ({error}); set ERRATA_HOME and ERRATA_CACHE to folders") from error
    prepare_environment(settings)
    return settings


def prepare_environment(settings: Settings) -> None:
    """Tell Prefect and MLflow where they live and to call nobody; only what the user has not set already."""
    defaults = {
        "PREFECT_HOME": str(settings.home_folder / "prefect"),
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
    own_profiles = Path("~/.prefect/profiles.toml").expanduser()
    if "PREFECT_HOME" not in os.environ and own_profiles.is_file():
        # The user's own profile names a server, perhaps; Prefect would look for it in the home that is set here.
        defaults["PREFECT_PROFILES_PATH"] = str(own_profiles)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    _keep_loopback_direct()


def _keep_loopback_direct() -> None:
    """Servers on this machine are never asked through a proxy; both spellings of the variable are read."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in (os.environ.get(name) or os.environ.get("NO_PROXY", "")).split(",") if host.strip()]
        missing = [host for host in ("127.0.0.1", "localhost", "::1") if host not in hosts]
        if "*" not in hosts:
            os.environ[name] = ",".join([*hosts, *missing])
