"""Addresses: databases in files, folders written as file://, and what signs in, taken out of an address."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?=:/)")
"""With one slash too: `file:/srv` is an address, and so is what `Path` makes of `gs://bucket`."""
SPECIAL = re.compile(r"[?#%]")
"""What a path may hold and an address reads as something else."""


def database_address(file: Path, kind: str = "sqlite") -> str:
    """SQLAlchemy's address of a database in a file.

    Where it is not the path as it stands it names its driver: MLflow takes what follows `sqlite:///` for the path
    itself and would make a folder of that name.
    """
    if not SPECIAL.search(str(file)):
        return f"{kind}:///{file}"
    return f"{kind if '+' in kind else f'{kind}+pysqlite'}:///{quote(str(file))}"


def database_file(address: str) -> Path | None:
    """The file of a SQLite database; None for any other address."""
    scheme, separator, rest = address.partition(":///")
    if not separator or scheme.partition("+")[0] != "sqlite":
        return None
    return Path(unquote(rest.partition("?")[0]))


def folder_of(place: str, *, served: str = "") -> str:
    """A folder of this machine, also written as file://, or an address of the scheme that is served.

    Raises:
        ValueError: it is an address of another scheme, or of another machine.
    """
    found = SCHEME.match(place)
    if found is None or (served and place.startswith(f"{served}://")):
        return place
    if found[0].lower() != "file":
        also = f" or {served}://BUCKET/PATH" if served else ""
        raise ValueError(f"{found[0]}:// is not served; give a folder{also}")
    address = urlsplit(place)
    if address.netloc not in ("", "localhost") or not address.path.strip("/"):
        raise ValueError("file:// names a folder of this machine, e.g. file:///srv/errata")
    return unquote(place.partition(":")[2].removeprefix("//").removeprefix("localhost"))


def signed_in(address: str) -> tuple[str, str, str]:
    """An address of a server without what signs in there, and the name and the password that it held.

    Raises:
        ValueError: it is no address of a server; the message holds nothing of it.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise ValueError(
            "no address of a server; in a name or password write / as %2F, @ as %40, : as %3A, # as %23, ? as %3F"
        ) from error
    if not parts.hostname:
        raise ValueError("no address of a server; give for example http://127.0.0.1:5000")
    if "@" not in parts.netloc:
        return address, "", ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    bare = urlunsplit(parts._replace(netloc=host if port is None else f"{host}:{port}"))
    return bare, unquote(parts.username or ""), unquote(parts.password or "")


def asked(address: str, known: str = "") -> Request:
    """A request for an address, signed in with what stands in it, or with NAME:PASSWORD that is known apart from it.

    Raises:
        ValueError: it is no address of a server; the message holds nothing of it.
    """
    bare, name, password = signed_in(address)
    given = f"{name}:{password}" if name or password else known
    signed = base64.b64encode(given.encode()).decode()
    return Request(bare, headers={"Authorization": f"Basic {signed}"} if given else {})


def apart(values: Mapping[str, Any], address: str, name: str, password: str, joined: str = "") -> dict[str, Any]:
    """Settings in which an address of a server holds no name and no password: those are settings of their own.

    What is set already stays. `joined`: the setting of both, with a colon between.

    Raises:
        ValueError: the address is none of a server.
    """
    found = dict(values)
    given = found.get(address)
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        try:
            found[address], user, secret = signed_in(given)
        except ValueError as error:
            raise ValueError(f"setting ERRATA_{address.upper()}: {error}") from error
        parts = {joined: f"{user}:{secret}" if user or secret else ""} if joined else {name: user, password: secret}
        found |= {key: value for key, value in parts.items() if value and not found.get(key)}
    return found
