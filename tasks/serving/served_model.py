"""A version of a line as an MLflow model: the code that `models:/LINE@champion` runs.

MLflow stores this file with the model and executes it on loading ("model from code"). Its config is a pointer:
line, version, snapshot, store_uri, endpoint_url, base, base_digest, max_new_tokens, dtype, errata (the release that
stored it). The weights stay where they are: base and store must be in reach where it is loaded, and the snapshot is
verified against its digests before the first answer. Errata's code is stored beside it.
"""

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from packaging.version import Version

DEFAULT_NEW_TOKENS = 32
STORED_CODE = Path(__file__).with_name("code") / "errata.zip"


class EditedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Answers prompts with the edited model that its pointer names."""

    def load_context(self, context: Any) -> None:
        """Load base and snapshot, verified."""
        self.pointer = dict(context.model_config)
        make_errata_importable(STORED_CODE, self.pointer.get("errata"))
        from tasks.serving.loading import load_version  # now it can be

        self.answerer = load_version(self.pointer)

    # The annotation is what MLflow hands over after its schema check, and the one that it takes without a warning.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """One answer a prompt or conversation.

        Prompts come as a column `prompt`, a list of strings, one string, or a mapping; conversations as `messages`, a
        list of {role, content} or a list of such lists.
        """
        # Errata can be imported once the model is loaded.
        from editing.errors import ErrataError
        from tasks.serving.messages import conversations_of

        limit = (params or {}).get("max_new_tokens") or self.pointer.get("max_new_tokens") or DEFAULT_NEW_TOKENS
        try:
            if (conversations := conversations_of(model_input)) is not None:
                return [str(answer) for answer in self.answerer.converse(conversations, int(limit))]
            prompts = prompts_of(model_input)
            return [str(answer) for answer in self.answerer.answer(prompts, int(limit))] if prompts else []
        except ErrataError as error:  # of MLflow's own kind, so that its server tells the reason
            raise MlflowException(str(error), error_code=BAD_REQUEST) from error


def make_errata_importable(stored: Path, release: str | None) -> None:
    """Put the stored code on the path: last where an Errata is loaded or installed that is no older, else first.

    So one of them is used whole; parts of two releases need not fit together.
    """
    loaded = not {"editing", "tasks"}.isdisjoint(sys.modules)
    if not stored.is_file() or str(stored) in sys.path:
        return
    sys.path.insert(len(sys.path) if loaded or _installed(release) else 0, str(stored))


def _installed(release: str | None) -> bool:
    try:
        found = importlib.metadata.version("errata-lm")
    except importlib.metadata.PackageNotFoundError:
        return False
    return release is None or Version(found) >= Version(release)


def prompts_of(model_input: object) -> list[str]:
    """The prompts in whatever form MLflow or a caller passes them.

    Raises UsageError for a table without a column `prompt` and for anything that is no text.
    """
    found: object = model_input
    if isinstance(found, pd.DataFrame):
        columns = list(found.columns)
        if "prompt" not in columns and len(columns) != 1:
            raise _refusal(f"the input has the columns {columns}: name the one that holds the prompts 'prompt'")
        found = found["prompt" if "prompt" in columns else columns[0]].tolist()
    elif isinstance(found, Mapping):
        if "prompt" not in found:
            raise _refusal(f"the input has the keys {sorted(map(str, found))}: pass {{'prompt': [...]}}")
        found = found["prompt"]
    return list(_flatten(found))


def _flatten(found: object) -> list[str]:
    """Strings out of a string, a sequence of strings, of mappings, or of such sequences (a cell may hold a list)."""
    if isinstance(found, str):
        return [found]
    if isinstance(found, Mapping):
        return prompts_of(found)
    if hasattr(found, "tolist"):
        return _flatten(found.tolist())
    if isinstance(found, Sequence):
        return [prompt for item in found for prompt in _flatten(item)]
    raise _refusal(f"a prompt must be a string, not {type(found).__name__} {found!r}")


def _refusal(message: str) -> Exception:
    from editing.errors import UsageError  # here: Errata can be imported once the model is loaded

    return UsageError(message)


mlflow.models.set_model(EditedModel())
