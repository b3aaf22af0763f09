"""A base model on this machine's device, with progress told while it loads."""

from functools import partial

from editing.models import LoadedModel, load_model
from tasks.progress import progress
from tasks.settings import Settings


def loaded_base(model: str, dtype: str, settings: Settings) -> LoadedModel:
    """As `load_model` of the settings' device and cache. Raises as it does."""
    told = partial(progress, "model")
    return load_model(model, dtype=dtype, device=settings.device, cache=settings.cache_folder, on_progress=told)
