"""What transformers makes of a model's files, looked at: whatever it raises, or passes over, is one line.

The same is asked of weights that are read and of weights that are only looked at, on torch's device `meta`, where a
folder of any size takes a fraction of a second and no memory.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from editing.errors import ModelError, OutOfMemory
from editing.foreign_code import asks_for_code
from editing.layout import LAYOUTS
from editing.placed import Tensors
from editing.shortage import is_out_of_memory, one_line
from editing.tokens import check_offsets, leave_end_off

FILES = "Check the name, the files and, for a hub id, the network; 'embedded' needs none."
TRAINED_WITH = "put the files of the tokenizer that it was trained with beside its weights"
OTHERS = "config.json and the weights are of different models: download or save it again"
T = TypeVar("T")


def guarded(reference: str, load: Callable[[], T], what: str = "", remedy: str = FILES) -> T:
    """`load()`, with whatever transformers raises turned into one line; `what` is read, unless it is all."""
    try:
        return load()
    except (ModelError, OutOfMemory):
        raise
    except Exception as error:  # tokenizers raises nothing narrower for a file that it cannot read
        if is_out_of_memory(error):
            raise
        if "trust_remote_code" in str(error):  # of a hub id, whose files are not looked at before
            raise ModelError(asks_for_code(reference, "auto_map in its repository", "auto_map")) from error
        kind = "KeyError: " if isinstance(error, KeyError) else ""  # which says nothing but what it did not find
        raise ModelError(f"model '{reference}' cannot be loaded: {what}{kind}{one_line(error)} {remedy}") from error


def read_tokenizer(reference: str, source: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer, which ends no text by itself.

    Raises:
        ModelError: it cannot be read, or is none by which models are edited.
    """

    def read() -> PreTrainedTokenizerBase:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        check_offsets(reference, tokenizer)
        leave_end_off(tokenizer)
        return tokenizer

    tokenizer = guarded(reference, read, "its tokenizer cannot be read: ", f"{TRAINED_WITH.capitalize()}.")
    if tokenizer.chat_template:
        guarded(
            reference, lambda: _try_template(tokenizer), "its chat template is broken: ", "Correct it or take it out."
        )
    return tokenizer


def _try_template(tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    except TemplateSyntaxError:
        raise
    except TemplateError:  # it wants another conversation, which whoever asks one is told
        pass


def read_weights(
    reference: str, source: str, revision: str | None, config: PreTrainedConfig, dtype: torch.dtype, **where: Any
) -> PreTrainedModel:
    """The model, all of whose weights stand in its files as its config says.

    Raises:
        ModelError: it cannot be loaded, or is not whole.
    """
    model, report = guarded(
        reference,
        lambda: AutoModelForCausalLM.from_pretrained(
            source,
            revision=revision,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            **where,
        ),
    )
    _check_complete(reference, config, report)
    return model


def _check_complete(reference: str, config: PreTrainedConfig, report: Mapping[str, Any]) -> None:
    """transformers fills weights that are missing or of another size with random numbers, and leaves layers out."""
    for name, found, asked in sorted(report.get("mismatched_keys", ())):
        raise ModelError(
            f"model '{reference}' cannot be loaded: weight '{name}' is {tuple(found)}, its config asks for "
            f"{tuple(asked)}; {OTHERS}"
        )
    if missing := sorted(report.get("missing_keys", ())):
        raise ModelError(
            f"model '{reference}' lacks {len(missing)} of its weights in the files (the first: {missing[0]}); it is "
            "incomplete or no causal language model: download or save it again"
        )
    layers, told = f"{LAYOUTS[config.model_type].layers}." if config.model_type in LAYOUTS else "", _layers(config)
    rest = [name.removeprefix(layers).partition(".")[0] for name in report.get("unexpected_keys", ()) if layers in name]
    if numbers := [int(number) for number in rest if number.isdigit() and int(number) >= told]:
        raise ModelError(
            f"model '{reference}' holds {max(numbers) + 1} layers in its files, its config says {told}; {OTHERS}"
        )


def _layers(config: PreTrainedConfig) -> int:
    return int(config.get_text_config().num_hidden_layers)


def check_numbers(reference: str, model: PreTrainedModel, on_bytes: Callable[[int], None]) -> None:
    """Raises ModelError for weights that hold what is no number; `on_bytes` hears the size of each."""
    for name, tensor in Tensors(model).items():
        low, high = torch.aminmax(tensor) if tensor.numel() else (torch.zeros(()),) * 2
        if not (low.isfinite() and high.isfinite()):
            raise ModelError(f"weight '{name}' of model '{reference}' holds NaN or infinity: download or save it again")
        on_bytes(tensor.nbytes)


def check_vocabulary(reference: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Let padding be a token that the model knows.

    Raises:
        ModelError: the tokenizer makes tokens of plain text, or of a conversation, that the model does not know.
    """
    known = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > known:
        raise ModelError(
            f"the tokenizer of model '{reference}' has {tokenizer.vocab_size} tokens, the model knows {known}; "
            f"{TRAINED_WITH}"
        )
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= known:
        tokenizer.pad_token = tokenizer.eos_token
    template = str(tokenizer.chat_template or "")
    for number, token in tokenizer.added_tokens_decoder.items():
        if number >= known and str(token) in template:
            raise ModelError(
                f"the tokenizer of model '{reference}' has in its chat template the token '{token}', number "
                f"{number}, and the model knows {known}; {TRAINED_WITH}"
            )
