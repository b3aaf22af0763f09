"""What a job takes of memory, as `errata doctor --model` shows it."""

from typing import Any

from flows.cli.console import as_json, say, table


def show_memory(model: str, dtype: str | None, options: dict[str, Any], json: bool) -> None:
    """Foretell the memory of a job with the method memit, stage by stage, from the model's configuration.

    Without a dtype it is that of the settings.

    Raises:
        ModelError: there is no such model, or it cannot be edited.
    """
    from editing.devices import DTYPES, first_device
    from editing.memory import bytes_a_fact, conversion, peak, shape_of, stages
    from editing.methods import layers_of, method_config
    from editing.methods.memit import MemitConfig
    from editing.models import outline
    from editing.products import wants_bfloat16
    from tasks.lines.specs import absolute
    from tasks.settings import load_settings

    settings = load_settings()
    dtype = dtype or settings.dtype
    reference = absolute(model) or model
    found = outline(reference, dtype=dtype, device=settings.device)
    method = MemitConfig.model_validate(method_config("memit", options).model_dump())
    narrow = wants_bfloat16(method.search.products, DTYPES[dtype], first_device(settings.device))
    shape = shape_of(found.config, layers_of(method, found.config))
    parts = list(stages(shape, DTYPES[dtype].itemsize, method, narrow=narrow))
    if found.gguf_type is not None:
        parts.insert(1, conversion(shape))
    most, grows = peak(parts), bytes_a_fact(shape)
    if json:
        stages_of = [{"stage": one.name, "bytes": one.bytes, "stays": one.stands} for one in parts]
        about = {"model": model, "dtype": dtype, "gguf_type": found.gguf_type, "holds_weights": found.has_weights}
        sizes = {"parameters": shape.parameters, "stages": stages_of, "peak_bytes": most, "bytes_a_fact": grows}
        as_json(about | sizes)
        return
    title = f"{model}, {shape.parameters / 1e9:.2f} billion parameters in {dtype}"
    rows = [[one.name, _gib(one.bytes), _gib(one.stands), one.lower] for one in parts]
    table(title, ["stage", "GiB", "stays", "less by"], rows)
    say(f"most at once {_gib(most)} GiB; a version grows by {grows / 2**20:.2f} MiB a fact")
    if found.gguf_type is not None:
        say(f"its weights are {found.gguf_type}, dequantised to float32 once, then kept in {settings.cache_folder}")
    if not found.has_weights:
        say(f"'{model}' holds no weights (*.safetensors): a forecast from its config.json alone; a job needs them")


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
