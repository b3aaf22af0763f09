"""The outside systems of one installation, opened from its settings."""

from dataclasses import dataclass

from editing.errors import UsageError
from tasks.ledger.opening import s3_options
from tasks.ledger.table import Ledger
from tasks.retries import may_pass
from tasks.settings import Settings, load_settings
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore
from tasks.tracking.client import Tracker

EXPERIMENT = "errata"
RESTORING = "restoring.json"
"""Stands in a home while a backup is put into it."""


@dataclass(frozen=True)
class Workplace:
    settings: Settings
    store: SnapshotStore
    ledger: Ledger

    def may_be_away(self, error: object) -> bool:
        """Whether to wait for store or ledger after an error: a disk of this machine says at once what is wrong."""
        is_served = any(uri.startswith("s3://") for uri in (self.settings.store_uri, self.settings.ledger_uri))
        return is_served and may_pass(error)

    def tracker(self) -> Tracker:
        """MLflow; opened only where it is needed, since that takes seconds."""
        return Tracker(self.settings.mlflow_uri, self.settings.artifact_root, EXPERIMENT)


def open_workplace(settings: Settings | None = None, *, restoring: bool = False) -> Workplace:
    """The workplace of these settings, or of those that are set; `restoring`: for whoever puts a backup into it.

    Raises:
        StorageError, LedgerError: something cannot be reached.
        UsageError: a restore of this home has not ended.
    """
    used = settings or load_settings()
    if not restoring and (used.home_folder / RESTORING).exists():
        raise UsageError(
            f"a restore of '{used.home_folder}' has not ended: the same errata restore again goes on with it"
        )
    store = open_store(used.store_uri, endpoint_url=used.s3_endpoint_url, create=True)
    options = s3_options(used.s3_endpoint_url) if used.ledger_uri.startswith("s3://") else None
    return Workplace(used, SnapshotStore(store), Ledger(used.ledger_uri, options))
