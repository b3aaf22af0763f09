"""What MLflow stores of a version: a model from code, a pointer to the snapshot, and the code that follows it.

No weights are copied. `code/errata.zip` (some 400 kB) holds the packages `editing` and `tasks` as they are now, so that
the model loads where Errata is not installed: it is in no package index that a list of requirements could name. Where
Errata is installed at this release or a later one that one is used, so that repairs reach stored models. Whoever may
write to MLflow's artifacts decides what runs where a model is loaded; that is so of every model from code. MLflow is
imported where it is used: it takes seconds.
"""

import functools
import importlib.metadata
import io
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SERVED_MODEL = ROOT / "tasks" / "serving" / "served_model.py"
"""Stored with the model and run where it is loaded; never imported here."""
DISTRIBUTION = "errata-lm"
ARCHIVE = "errata.zip"
PACKAGES = ("editing", "tasks")
SERVED_WITH = (
    *("mlflow", "torch", "transformers", "accelerate", "gguf", "safetensors", "numpy", "pandas"),
    *("boto3", "pydantic", "pydantic-settings"),
)
"""What a server of the model installs; all that loading one imports, and what transformers needs for a GGUF file."""


@contextmanager
def saved_model(model: Any, run_id: str, pointer: Mapping[str, Any], model_code: Path) -> Iterator[Path]:
    """A folder with the files of a logged model, for as long as they are needed."""
    import mlflow.pyfunc  # takes seconds, and only whoever tracks needs it
    from mlflow.models import Model

    release = importlib.metadata.version(DISTRIBUTION)
    described = Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        run_id=run_id,
        model_id=model.model_id,
        metadata={DISTRIBUTION: release},
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        archive = Path(folder, ARCHIVE)
        archive.write_bytes(code_archive())
        # An input example would make MLflow load the model, weights and all, to try it out.
        warnings.filterwarnings("ignore", message=".*input example was not provided", category=UserWarning)
        _know_no_modules()
        mlflow.pyfunc.save_model(
            path=f"{folder}/model",
            mlflow_model=described,
            python_model=str(model_code),
            model_config={**pointer, "errata": release},
            signature=_signature(pointer),
            pip_requirements=requirements(),
            code_paths=[str(archive)],
        )
        yield Path(folder, "model")


def _know_no_modules() -> None:
    """Spare MLflow a look at every file of every installed package, for a second of processor time.

    It learns by it which modules a package has. It asks that only for packages whose version it cannot find by name.
    """
    from mlflow.utils import requirements_utils  # takes seconds, and only whoever tracks needs it

    if requirements_utils._MODULES_TO_PACKAGES is None:
        requirements_utils._MODULES_TO_PACKAGES = {}


@functools.cache
def requirements() -> list[str]:
    """What a server of the model installs, as it is here."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in SERVED_WITH]


@functools.cache
def code_archive() -> bytes:
    """The source of Errata as a zip that Python imports from; the same code gives the same bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
            member = zipfile.ZipInfo(path.relative_to(ROOT).as_posix())  # its time is always 1980
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return made.getvalue()


def _signature(pointer: Mapping[str, Any]) -> Any:
    """Answers out. What goes in is left open: no schema of MLflow admits a list of strings, prompts and messages."""
    from mlflow.models import ModelSignature  # takes seconds, and only whoever tracks needs it
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    limit = ParamSpec("max_new_tokens", "long", int(pointer.get("max_new_tokens", 32)))
    return ModelSignature(outputs=Schema([ColSpec("string")]), params=ParamSchema([limit]))
