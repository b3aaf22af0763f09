"""What a job takes of memory, as `errata doctor --model` shows it."""

from typing import Any

from flows.cli.console import as_json, say, table


def show_memory(model: str, dtype: str, options: dict[str, Any], json: bool) -> None:
    """Foretell the memory of a job with the method memit, stage by stage, from the model's configuration.

    Raises:
        ModelError: there is no such model, or it cannot be edited.
    """
    from editing.devices import DTYPES, first_device
    from editing.memory import bytes_a_fact, peak, shape_of, stages
    from editing.methods import layers_of, method_config
    from editing.methods.memit import MemitConfig
    from editing.models import model_config
    from editing.products import wants_bfloat16
    from tasks.lines.specs import absolute
    from tasks.settings import load_settings

    settings = load_settings()
    reference = absolute(model) or model
    config = model_config(reference, dtype=dtype, device=settings.device, cache=settings.cache_folder)
    assert config is not None  # with a folder to convert in, every model has one
    method = MemitConfig.model_validate(method_config("memit", options).model_dump())
    narrow = wants_bfloat16(method.search.products, DTYPES[dtype], first_device(settings.device))
    shape = shape_of(config, layers_of(method, config))
    parts = list(stages(shape, DTYPES[dtype].itemsize, method, narrow=narrow))
    most, grows = peak(parts), bytes_a_fact(shape)
    if json:
        stages_of = [{"stage": one.name, "bytes": one.bytes, "stays": one.stands} for one in parts]
        found = {"model": model, "dtype": dtype, "parameters": shape.parameters, "stages": stages_of}
        as_json(found | {"peak_bytes": most, "bytes_a_fact": grows})
        return
    title = f"{model}, {shape.parameters / 1e9:.2f} billion parameters in {dtype}"
    rows = [[one.name, _gib(one.bytes), _gib(one.stands), one.lower] for one in parts]
    table(title, ["stage", "GiB", "stays", "less by"], rows)
    say(f"most at once {_gib(most)} GiB; a version grows by {grows / 2**20:.2f} MiB a fact")


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f}"
