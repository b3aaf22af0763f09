"""What is wrong with the base of a line, as far as that can be told before it is loaded."""

from editing.config import MethodConfig
from editing.layout import check_layer_numbers
from editing.methods import find_method, layers_of
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
        _check_named_layers(method, count)


def _check_named_layers(method: MethodConfig, count: int) -> None:
    if method.layers is not None:
        check_layer_numbers(count, method.layers, searched=find_method(method.method).searches)
