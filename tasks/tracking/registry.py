"""The versions of a line in MLflow's registry: registered, described, tagged, and the aliases that point to them.

MLflow numbers its versions by itself; the line's own number is the tag `errata.version`. One search finds all versions
of a line, and what is written is only what differs, so that every call may be repeated at any time.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.names import check_model_name
from tasks.secrets import masked
from tasks.tracking.connection import NOT_THERE, Connection, guarded
from tasks.tracking.errors import TrackingError
from tasks.tracking.stored_model import SERVED_MODEL, saved_model

logger = logging.getLogger(__name__)

LINE, VERSION, SNAPSHOT, STATUS = "errata.line", "errata.version", "errata.snapshot", "errata.status"
FACTS, REVIEW = "errata.facts", "review"
WAITING = "waiting"
"""What the tags `review` and `errata.status` of a version say until somebody decides."""
ALIASES = ("champion", "challenger", "previous")
DESCRIPTION_LENGTH = 5000
"""Of MLflow's column; more is an error of the database."""


@dataclass(frozen=True)
class Registered:
    """A version of a line as MLflow has it."""

    mlflow_number: int
    snapshot: str
    description: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """A version of a line that is to be registered."""

    run_id: str
    pointer: Mapping[str, Any]
    """The model_config of `served_model.py`: line, version, snapshot, store_uri, and how to load."""
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry(Connection):
    """The registry's part of a tracker. `experiment_id` is of the experiment that the models are logged in.

    Raises TrackingError, on one line with the address and the remedy, when MLflow cannot be reached or refuses.
    """

    experiment_id: str

    def register_version(
        self, line: str, run_id: str, pointer: Mapping[str, Any], model_code: Path = SERVED_MODEL
    ) -> int:
        """Register one version; returns MLflow's own version number."""
        _check_pointer(line, pointer)
        return self.register_versions(line, [Entry(run_id, pointer)], model_code)[int(pointer["version"])].mlflow_number

    def register_versions(
        self, line: str, entries: list[Entry], model_code: Path = SERVED_MODEL
    ) -> dict[int, Registered]:
        """Register versions of a line as pyfunc models from code; returns all that the line has, by its numbers.

        The same line version with the same snapshot is found again by its tags: a job that was killed repeats the call.
        """
        for entry in entries:
            _check_pointer(line, entry.pointer)
        known = self.line_versions(line)
        for entry in entries:
            number, snapshot = int(entry.pointer["version"]), str(entry.pointer["snapshot"])
            if number in known and known[number].snapshot == snapshot:
                continue
            if number in known:
                logger.warning(
                    "line %r version %s was registered with snapshot %s before; snapshot %s replaces it",
                    *(line, number, known[number].snapshot, snapshot),
                )
            known[number] = self._register(line, number, entry, model_code, new=not known)
        return known

    @guarded("read the versions of line {line!r}")
    def line_versions(self, line: str) -> dict[int, Registered]:
        """Every version of a line that MLflow knows, by the line's numbers: one call, whatever their number."""
        return self._all(line)

    @guarded("read version {version} of line {line!r}")
    def version_tags(self, line: str, version: int) -> dict[str, str]:
        """The tags of a line version, also those that a reviewer has set in the MLflow UI."""
        return dict(self._known(line, version).tags)

    @guarded("tag version {version} of line {line!r}")
    def set_version_tag(self, line: str, version: int, key: str, value: str) -> None:
        """Set one tag of a line version, for example its status."""
        self._client.set_model_version_tag(line, str(self._known(line, version).mlflow_number), key, value)

    @guarded("tag the versions of line {line!r}")
    def set_version_tags(
        self, line: str, wanted: Mapping[int, Mapping[str, str]], known: Mapping[int, Registered]
    ) -> None:
        """Make these tags of line versions so, where they are not; `known`: what `line_versions` has just said."""
        for number, tags in wanted.items():
            if (there := known.get(number)) is not None:
                for key in (key for key, value in tags.items() if there.tags.get(key) != value):
                    self._client.set_model_version_tag(line, str(there.mlflow_number), key, tags[key])

    @guarded("describe version {number} of MLflow's model {line!r}")
    def describe_version(self, line: str, number: int, text: str) -> None:
        """What MLflow's page of a version shows, in Markdown; `number` is MLflow's own."""
        self._client.update_model_version(line, str(number), text[:DESCRIPTION_LENGTH])

    @guarded("describe line {line!r}")
    def describe_line(self, line: str, text: str) -> None:
        """What MLflow's page of a line shows, in Markdown; what somebody wrote there stays."""
        check_model_name(line)
        if not self._client.get_registered_model(line).description:
            self._client.update_registered_model(line, text[:DESCRIPTION_LENGTH])

    @guarded("set the aliases of line {line!r}")
    def set_aliases(
        self, line: str, champion: int | None, challenger: int | None, previous: int | None,
        known: Mapping[int, Registered] | None = None,
    ) -> None:  # fmt: skip
        """Make the aliases of a line equal to these line versions; None takes the alias away.

        Nothing is written where nothing differs. An alias that stays is moved, never taken away in between: somebody
        may load it at any moment. Taken away are the others, last. `known`: what `line_versions` has just said.

        Raises:
            TrackingError: one of the versions is not registered; nothing is changed then.
        """
        wanted = dict(zip(ALIASES, (champion, challenger, previous), strict=True))
        known = self._all(line) if known is None and any(wanted.values()) else known or {}
        targets = {
            alias: self._known(line, version, known).mlflow_number
            for alias, version in wanted.items()
            if version is not None
        }
        present = self._registry_aliases(line)
        for alias, target in targets.items():
            if present.get(alias) != target:
                self._client.set_registered_model_alias(line, alias, str(target))
        for alias in present.keys() - targets.keys():
            self._client.delete_registered_model_alias(line, alias)

    @guarded("read the aliases of line {line!r}")
    def aliases(self, line: str) -> dict[str, int]:
        """Line version behind each of Errata's aliases that is set: one call, and one for each of them."""
        found = {
            alias: self._client.get_model_version(line, str(number))
            for alias, number in self._registry_aliases(line).items()
        }
        return {alias: int(version.tags[VERSION]) for alias, version in found.items() if VERSION in version.tags}

    @guarded("register version {number} of line {line!r}")
    def _register(self, line: str, number: int, entry: Entry, model_code: Path, *, new: bool) -> Registered:
        """Also called again where the answer to the first call was lost: what stands there then is found."""
        snapshot = str(entry.pointer["snapshot"])
        for one in self._search(line, f" and tags.`{VERSION}` = '{number}'"):
            if one.tags.get(SNAPSHOT) == snapshot:
                return _registered(one)
        tags = {LINE: line, VERSION: str(number), SNAPSHOT: snapshot, STATUS: WAITING, REVIEW: WAITING, **entry.tags}
        if new:
            self._ensure_line(line)
        model = self._client.create_logged_model(self.experiment_id, name="model", source_run_id=entry.run_id)
        with saved_model(model, entry.run_id, entry.pointer, model_code) as folder:
            self._client.log_model_artifacts(model.model_id, str(folder))
        model = self._client.finalize_logged_model(model.model_id, "READY")
        return _registered(
            self._client.create_model_version(
                line, source=model.artifact_location, run_id=entry.run_id, tags=tags, model_id=model.model_id
            )
        )

    def _ensure_line(self, line: str) -> None:
        self._unless_there(self._client.create_registered_model, line)

    def _unless_there(self, create: Any, *args: Any) -> Any:
        """What `create` returns, or None where it exists already."""
        from mlflow.exceptions import MlflowException  # takes seconds, and only whoever tracks needs it

        try:
            return create(*args)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return None

    def _all(self, line: str) -> dict[int, Registered]:
        found = {}
        for one in sorted(self._search(line), key=lambda one: int(one.version)):  # the newest of a number counts
            if VERSION in one.tags:
                found[int(one.tags[VERSION])] = _registered(one)
        return found

    def _search(self, line: str, more: str = "") -> Iterator[Any]:
        """MLflow's versions of a line, page after page."""
        check_model_name(line)
        page = self._client.search_model_versions(f"name = '{line}'{more}")
        yield from page
        while page.token:
            page = self._client.search_model_versions(f"name = '{line}'{more}", page_token=page.token)
            yield from page

    def _known(self, line: str, version: int, known: Mapping[int, Registered] | None = None) -> Registered:
        known = self._all(line) if known is None else known
        if version not in known:
            raise TrackingError(f"line {line!r} has no version {version} in MLflow at {self.uri}: register it first")
        return known[version]

    def _registry_aliases(self, line: str) -> dict[str, int]:
        """Errata's aliases of the line as MLflow's own version numbers; none where the line is unknown."""
        from mlflow.exceptions import MlflowException  # takes seconds, and only whoever tracks needs it

        check_model_name(line)
        try:
            present = self._client.get_registered_model(line).aliases
        except MlflowException as error:
            if error.error_code != NOT_THERE:
                raise
            return {}
        return {alias: int(version) for alias, version in present.items() if alias in ALIASES}


def _registered(version: Any) -> Registered:
    tags = dict(version.tags)
    return Registered(int(version.version), tags.get(SNAPSHOT, ""), version.description or "", tags)


def _check_pointer(line: str, pointer: Mapping[str, Any]) -> None:
    check_model_name(line)
    lacking = {"line", "version", "snapshot"} - pointer.keys()
    if lacking or pointer["line"] != line:
        raise TrackingError(
            f"pointer of line {line!r} must hold this line, 'version' and 'snapshot'; it is {pointer!r}"
        )
    leaks = [name for name, value in masked(pointer).items() if value != pointer[name]]
    if leaks:
        raise TrackingError(
            f"pointer of line {line!r} holds a secret in {leaks[0]!r}, and MLflow shows it to every reader: "
            "give credentials through the environment"
        )
