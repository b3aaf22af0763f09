"""What is wrong with the base of a line, as far as that can be told before it is loaded."""

from editing.config import MethodConfig
from editing.methods import check_named_layers, layers_of
from editing.models import converted_layers, model_config
from tasks.lines.specs import LineSpec
from tasks.settings import Settings


def check_base(spec: LineSpec, settings: Settings) -> None:
    """Look at base, dtype, device and layers: what is wrong there is found before anything is started.

    Raises:
        ModelError: the base cannot be loaded here, or not be edited as the line says.
    """
    check_model(spec.model, spec.dtype, spec.config, settings)


def check_model(model: str, dtype: str, method: MethodConfig, settings: Settings) -> None:
    """The same of a model without a line. Raises as `check_base`."""
    config = model_config(model, dtype=dtype, device=settings.device)
    if config is not None:
        layers_of(method, config)
    elif (count := converted_layers(model)) is not None:
        check_named_layers(method, count)
