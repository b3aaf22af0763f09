"""What is wrong with the base of a line, as far as that can be told before it is loaded."""

from editing.methods import layers_of
from editing.models import model_config
from tasks.lines.specs import LineSpec
from tasks.settings import Settings


def check_base(spec: LineSpec, settings: Settings) -> None:
    """Look at base, dtype, device and layers: what is wrong there is found before anything is started.

    Raises:
        ModelError: the base cannot be loaded here, or not be edited as the line says.
    """
    config = model_config(spec.model, dtype=spec.dtype, device=settings.device)
    if config is not None:
        layers_of(spec.config, config)
