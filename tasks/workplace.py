"""The outside systems of one installation, opened from its settings."""

from dataclasses import dataclass

from tasks.ledger.opening import s3_options
from tasks.ledger.table import Ledger
from tasks.retries import may_pass
from tasks.settings import Settings, load_settings
from tasks.stores.opening import open_store
from tasks.stores.snapshots import SnapshotStore
from tasks.tracking.client import Tracker

EXPERIMENT = "errata"


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


def open_workplace(settings: Settings | None = None) -> Workplace:
    """Raises StorageError or LedgerError where something cannot be reached."""
    used = settings or load_settings()
    store = open_store(used.store_uri, endpoint_url=used.s3_endpoint_url, create=True)
    options = s3_options(used.s3_endpoint_url) if used.ledger_uri.startswith("s3://") else None
    return Workplace(used, SnapshotStore(store), Ledger(used.ledger_uri, options))
