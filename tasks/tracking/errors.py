"""What can go wrong with MLflow."""

from editing.errors import ErrataError


class TrackingError(ErrataError):
    """MLflow cannot be reached or refuses."""


class TrackingUnavailable(TrackingError):
    """MLflow does not answer now, and may in a moment: a connection that broke, a locked database, a server's 5xx."""
