"""What can go wrong with MLflow."""

from editing.errors import ErrataError


class TrackingError(ErrataError):
    """MLflow cannot be reached or refuses."""
