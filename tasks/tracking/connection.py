"""The way to MLflow: its client, its failures as one line, and further tries where a network or a lock is at fault."""

import functools
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from tasks.secrets import without_secrets
from tasks.tracking.address import check_reachable, first_line, quiet_mlflow
from tasks.tracking.errors import TrackingError, TrackingUnavailable
from tasks.tracking.making import make_whole

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

PAUSES = (0.5, 2.0, 5.0)
"""Seconds before each further try: together as long as a server takes to start anew."""
PASSING_CODES = ("TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""MLflow's own codes for what may go by itself; a database that is locked or away is the first one."""
NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
"""MLflow's code for a model, version, run or artifact that it has not."""
_DELETED = "It was deleted there, or is in another MLflow: name what its pages list, or that one by ERRATA_TRACKING_URI"
_DOWN = "Check that the server or database is up and that its schema is MLflow's ('mlflow db upgrade URI')"
TAKEN = ("unique constraint", "duplicate entry")
"""What SQLite and Postgres, and MySQL, say of a second row of one key."""


class Connection:
    """MLflow's client at one address. Every call through it goes through `refusals`.

    Raises TrackingError, on one line with the address and the remedy, when MLflow cannot be reached or refuses.
    """

    def __init__(self, tracking_uri: str) -> None:
        quiet_mlflow()
        check_reachable(tracking_uri)
        self.uri = without_secrets(tracking_uri)
        make_whole(tracking_uri)
        with self.refusals("open the client"):
            import mlflow  # here: it takes seconds, and the settings above come before it

            self._client: Any = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    @contextmanager
    def refusals(self, doing: str) -> Iterator[None]:
        """Turn what MLflow, its database driver, its connection or its artifact store raise into one line.

        Raises:
            TrackingUnavailable: it may work in a moment.
            TrackingError: it will not.
        """
        try:
            yield
        except TrackingError:
            raise
        except _refusal_types() as error:
            kind = TrackingUnavailable if passes(error) else TrackingError
            remedy = _DELETED if getattr(error, "error_code", None) == NOT_THERE else _DOWN
            raise kind(f"cannot {doing} in MLflow at {self.uri}: {first_line(error)}. {remedy}") from error


def guarded(doing: str, pauses: Sequence[float] = PAUSES) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A method of a Connection whose failures become one line that begins with `doing`, filled in with its arguments.

    What may pass is tried again after each of `pauses` (seconds), the method as a whole: it must come to the same when
    it is called twice, also where the first call arrived and only its answer was lost. `pauses=()` tries once.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).arguments
            connection: Any = given.pop("self")
            for pause in (*pauses, None):
                try:
                    with connection.refusals(doing.format(**given)):
                        return method(*args, **kwargs)
                except TrackingUnavailable as error:
                    if pause is None:
                        raise
                    logger.info("%s; again in %g s", error, pause)
                    time.sleep(pause)
            raise AssertionError("the last try returns or raises")

        return call

    return decorate


def passes(error: BaseException) -> bool:
    """Whether the failure may be over in a moment: a connection, a timeout, a server's 5xx, a locked database.

    Imports here and below: they take a second, and a command that does not talk to MLflow does without.
    """
    import requests  # takes seconds, and only whoever tracks needs it
    import sqlalchemy.exc
    import urllib3.exceptions

    passing = (
        *(ConnectionError, TimeoutError, requests.RequestException, urllib3.exceptions.HTTPError),
        *(sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError),
    )
    found: BaseException | None = error
    while found is not None:
        if getattr(found, "error_code", None) in PASSING_CODES or _was_written_beside(found):
            return True
        if isinstance(found, passing) and not isinstance(found, ValueError):  # a ValueError: an address, no answer
            return True
        found = found.__cause__ or found.__context__
    return False


def _was_written_beside(error: BaseException) -> bool:
    """Whether a row that was looked for and not there was there when it was written: another process was faster.

    MLflow looks, then inserts (a tag, an alias); the second time it finds the row. That a model or an experiment exists
    already is another code, and no accident.
    """
    said = str(error).casefold()
    return getattr(error, "error_code", None) == "BAD_REQUEST" and any(words in said for words in TAKEN)


@functools.cache
def _refusal_types() -> tuple[type[Exception], ...]:
    """What MLflow's client lets through, as far as somebody's server, database or disk can cause it."""
    import alembic.util  # takes seconds, and only whoever tracks needs it
    import boto3.exceptions
    import botocore.exceptions
    import sqlalchemy.exc
    import urllib3.exceptions
    from mlflow.exceptions import MlflowException

    return (
        MlflowException,
        sqlalchemy.exc.SQLAlchemyError,
        alembic.util.CommandError,  # a database of another release of MLflow
        urllib3.exceptions.HTTPError,
        OSError,  # requests' errors are such, too
        ImportError,  # of the library of a store of artifacts
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
        boto3.exceptions.Boto3Error,
        json.JSONDecodeError,  # a server that answers, and is no MLflow
    )
