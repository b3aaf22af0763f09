"""What is wrong with the base of a line, as far as that can be told before it is loaded."""

from pathlib import Path

from transformers import PreTrainedConfig

from editing.chat import chat_of, check_system
from editing.config import MethodConfig
from editing.errors import UsageError
from editing.layout import check_layer_numbers
from editing.methods import find_method, layers_of
from editing.models import converted_layers, has_template, model_config, quiet_transformers
from editing.pretrained import read_tokenizer
from tasks.lines.specs import LineSpec
from tasks.settings import Settings


def check_base(spec: LineSpec, settings: Settings) -> None:
    """Look at base, dtype, device, layers and system message: what is wrong is found before anything is started.

    Raises:
        ModelError: the base cannot be loaded here, or not be edited as the line says.
        UsageError: the line is to be asked in a chat, and the base has no template for one.
    """
    config = check_model(spec.model, spec.dtype, spec.config, settings)
    if spec.template == "chat" and not has_template(spec.model):
        raise UsageError(
            f"line '{spec.line}' has template 'chat', and model '{spec.model}' has no chat template; give a new line "
            "--template raw or auto, or put the template beside the model's tokenizer"
        )
    folder = Path(spec.model).expanduser()
    if spec.system is not None and config is not None and folder.is_dir():  # of others once they are loaded
        with quiet_transformers():
            tokenizer = read_tokenizer(spec.model, str(folder), None)
        check_system(chat_of(tokenizer, spec.template, spec.system), config)


def check_model(model: str, dtype: str, method: MethodConfig, settings: Settings) -> PreTrainedConfig | None:
    """The same of a model without a line; its config, None of a GGUF file. Raises as `check_base`."""
    config = model_config(model, dtype=dtype, device=settings.device)
    if config is not None:
        layers_of(method, config)
    elif (count := converted_layers(model)) is not None:
        _check_named_layers(method, count)
    return config


def _check_named_layers(method: MethodConfig, count: int) -> None:
    if method.layers is not None:
        check_layer_numbers(count, method.layers, searched=find_method(method.method).searches)
