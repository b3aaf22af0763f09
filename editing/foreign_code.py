"""Python code that comes with a model: none is run, and a folder that asks for it is refused."""

import json
from pathlib import Path

from editing.errors import ModelError

ASKS_FOR_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
"""Files of a model's folder in which `auto_map` names code of the folder's own."""
GENERATES = "custom_generate/generate.py"
"""Code of the folder's own that some releases of transformers run, when they load the model, without being told to."""


def check_no_code(reference: str, folder: Path) -> None:
    """Raises ModelError for a folder of a model that asks for code of its own to be run."""
    for name in ASKS_FOR_CODE:
        _check_file(reference, folder / name)
    if (folder / GENERATES).is_file():
        raise ModelError(asks_for_code(reference, GENERATES, "it"))


def _check_file(reference: str, file: Path) -> None:
    """Raises ModelError for a file that is no JSON, or that names Python code of the folder's own."""
    try:
        fields = json.loads(file.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{reference}/{file.name}' is not JSON ({error}); save the model again") from error
    if isinstance(fields, dict) and fields.get("auto_map"):
        raise ModelError(asks_for_code(reference, f"auto_map in {file.name}", "auto_map"))


def asks_for_code(reference: str, where: str, what: str) -> str:
    """The refusal of a model that names code, by where it does and what to take out."""
    return (
        f"model '{reference}' asks for Python code of its own to be run ({where}), which is never done: choose another "
        f"model, or take {what} out if transformers knows the architecture without it"
    )
