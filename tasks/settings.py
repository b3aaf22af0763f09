"""Where everything is: from `ERRATA_*` environment variables or one file; the defaults need nothing but a home folder.

The file is TOML: that of ERRATA_SETTINGS, else HOME/settings.toml where there is one. A variable stands above it.
"""

import errno
import getpass
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from editing.edit import shown
from editing.errors import PolicyError
from tasks.addresses import apart, database_address, folder_of
from tasks.secrets import without_secrets
from tasks.surroundings import tell_libraries

TRACKED_BY = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
"""Schemes of what MLflow can keep its records in."""
SHOWN = "an address that is shown holds no name and no password; give them as settings"
TRACKED_AT = "sqlite:////srv/mlflow.db or http://127.0.0.1:5000"


class Settings(BaseSettings):
    """Places, names, and what opens them. A secret is a SecretStr: it is shown as stars wherever it is printed."""

    model_config = SettingsConfigDict(
        env_prefix="ERRATA_", env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

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
    device: str = Field("cpu", description="Device that models run on; auto: GPUs, memory, disk.")
    s3_access_key: str = Field("", description="Name of the S3 key; empty: boto3 finds its own.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="Secret of the S3 key.")
    mlflow_username: str = Field("", description="Who signs in at MLflow's server, where it asks.")
    mlflow_password: SecretStr = Field(SecretStr(""), description="The password of MLflow's user.")
    prefect_api_url: str = Field("", description="Prefect's server, e.g. http://127.0.0.1:4200/api; empty: Prefect's.")
    prefect_auth: SecretStr = Field(SecretStr(""), description="NAME:PASSWORD at Prefect's server, where it asks.")
    mlflow_page: str = Field("", description="MLflow's address for links that people open; empty: the server's.")
    prefect_page: str = Field("", description="Prefect's address for links that people open; empty: the server's.")
    webhook_secret: SecretStr = Field(SecretStr(""), description="Signs what MLflow's webhooks send.")
    notify: SecretStr = Field(SecretStr(""), description="Whom to tell: addresses as Apprise reads them, with spaces.")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        file = settings_file()
        return init_settings, env_settings, *([TomlConfigSettingsSource(settings_cls, file)] if file else [])

    @model_validator(mode="before")
    @classmethod
    def _sign_in_apart(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What signs in at a server stands in settings of its own, so that no address shows it; blanks are nothing."""
        values = {name: value for name, value in values.items() if not isinstance(value, str) or value.strip()}
        values = apart(values, "tracking_uri", "mlflow_username", "mlflow_password")
        return apart(values, "prefect_api_url", "", "", joined="prefect_auth")

    @field_validator("home", "cache", mode="before")
    @classmethod
    def _is_folder(cls, place: str | Path) -> str:
        return folder_of(str(place))

    @field_validator("store", "ledger")
    @classmethod
    def _is_served(cls, place: str) -> str:
        """A folder, s3://, or file:// as the folder that it names; no other scheme is served."""
        return folder_of(place, served="s3")

    @field_validator("store", "ledger", "artifacts")
    @classmethod
    def _is_place(cls, address: str) -> str:
        if "@" in address and urlsplit(address).password:
            raise ValueError(SHOWN)
        if address.startswith("s3://") and not urlsplit(address).netloc:
            raise ValueError("it names no bucket: give s3://bucket/prefix")
        return address

    @field_validator("s3_endpoint_url", "mlflow_page", "prefect_page", "prefect_api_url")
    @classmethod
    def _is_server(cls, address: str | None) -> str | None:
        """What signs in at Prefect is out of its address here."""
        if address and "@" in urlsplit(address).netloc:
            raise ValueError(SHOWN)
        if address and (urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc):
            raise ValueError("no address of a server; give for example http://127.0.0.1:5000")
        return address

    @field_validator("tracking_uri")
    @classmethod
    def _is_mlflow(cls, uri: str) -> str:
        if uri and uri.partition(":")[0].partition("+")[0] not in TRACKED_BY:
            raise ValueError(f"no server and no database: give one of {', '.join(TRACKED_BY)}, e.g. {TRACKED_AT}")
        return uri

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
        return self.tracking_uri or database_address(self.home_folder / "mlflow.db")

    @property
    def artifact_root(self) -> str:
        return self.artifacts or str(self.home_folder / "artifacts")

    @property
    def mlflow_people(self) -> str:
        """Where people open MLflow's pages; empty where no server is known."""
        return (self.mlflow_page or (self.tracking_uri if self.tracking_uri.startswith("http") else "")).rstrip("/")

    @property
    def prefect_people(self) -> str:
        """Where people open Prefect's pages; empty where no server is known."""
        api = self.prefect_api_url or os.environ.get("PREFECT_API_URL", "")
        return (self.prefect_page or api.rstrip("/").removesuffix("/api")).rstrip("/")

    @property
    def who(self) -> str:
        try:
            return self.actor or getpass.getuser()
        except (KeyError, OSError):  # a container whose user has no entry
            return f"user {os.getuid()}"


SERVERS = ("tracking_uri", "s3_endpoint_url", "prefect_api_url", "mlflow_page", "prefect_page")
SECRETS = frozenset(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)


def settings_file() -> Path | None:
    """The file of settings, if there is one.

    Raises:
        PolicyError: ERRATA_SETTINGS names no file.
    """
    if named := _set("ERRATA_SETTINGS"):
        if not Path(named).expanduser().is_file():
            raise PolicyError(f"ERRATA_SETTINGS = {without_secrets(shown(named))} is no file: correct or unset it")
        return Path(named).expanduser()
    usual = Path(_set("ERRATA_HOME") or "~/.errata", "settings.toml")
    try:
        return usual.expanduser() if usual.expanduser().is_file() else None
    except RuntimeError:  # no home
        return None


def _set(variable: str) -> str:
    """What a variable of the environment says; blanks say nothing."""
    value = os.environ.get(variable, "")
    return value if value.strip() else ""


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and the file, with overrides of the caller.

    Raises:
        PolicyError: a value is out of range, the file cannot be read, or the home folder cannot be written.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise PolicyError(_refused(error)) from error
    except (SettingsError, ValueError, OSError) as error:  # of the file: it is no TOML, or cannot be read
        raise PolicyError(f"settings in {settings_file()}: {' '.join(str(error).split())}; correct the file") from error
    try:
        settings.home_folder.mkdir(parents=True, exist_ok=True)
        _make_cache(settings.cache_folder)
    except OSError as error:
        raise PolicyError(
            f"cannot create {error.filename}: {error.strerror}; set ERRATA_HOME / ERRATA_CACHE"
        ) from error
    except RuntimeError as error:
        raise PolicyError(f"'~' is nowhere ({error}); set ERRATA_HOME and ERRATA_CACHE to folders") from error
    prepare_environment(settings)
    return settings


def _make_cache(folder: Path) -> None:
    """Where it may not be made, whoever would keep something there says so and does without."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def settings_of(home: Path) -> Settings:
    """Those of another home, as its file says them; no variable of the environment counts.

    Raises:
        PolicyError: a value is out of range, or the file cannot be read.
    """
    file = home / "settings.toml"

    class OfHome(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *others: Any, **more: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, *([TomlConfigSettingsSource(settings_cls, file)] if file.is_file() else [])

    try:
        return OfHome(home=home)
    except ValidationError as error:
        raise PolicyError(f"{_refused(error)} (in '{home}')") from error
    except (SettingsError, ValueError, OSError) as error:
        raise PolicyError(f"settings in {file}: {' '.join(str(error).split())}; correct the file") from error


def _refused(error: ValidationError) -> str:
    """The first thing that is wrong; what may be a secret is not shown."""
    first = error.errors(include_input=True)[0]
    if not first["loc"]:  # of several together: it names them
        return str(first["msg"]).removeprefix("Value error, ")
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = ", ".join(Settings.model_fields)
        return f"setting {shown(field)} in {settings_file()} is unknown; known are {known}"
    told = first.get("input")
    unmasked = field in SERVERS and "@" in str(told) and "://" not in str(told)  # what signs in is masked in addresses
    given = "" if field in SECRETS or unmasked else f" = {without_secrets(shown(told))}"
    return f"setting ERRATA_{field.upper()}{given}: {first['msg'].removeprefix('Value error, ')}"


def told_to_clients(settings: Settings) -> dict[str, str]:
    """What opens a server, by the variables in which its own client looks for it; empty where nothing is set."""
    return {
        "AWS_ACCESS_KEY_ID": settings.s3_access_key,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
        "MLFLOW_TRACKING_USERNAME": settings.mlflow_username,
        "MLFLOW_TRACKING_PASSWORD": settings.mlflow_password.get_secret_value(),
        "PREFECT_API_URL": settings.prefect_api_url,
        "PREFECT_API_AUTH_STRING": settings.prefect_auth.get_secret_value(),
    }


def prepare_environment(settings: Settings) -> None:
    """Tell Prefect and MLflow where they live and to call nobody; only what the user has not set already."""
    tell_libraries(settings.home_folder, told_to_clients(settings))
