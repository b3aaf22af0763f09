"""A model's folder that asks for Python of its own to be run."""

import json
from pathlib import Path

from editing.models import LoadedModel, quiet_transformers

CODE = """
from pathlib import Path
from transformers import LlamaConfig, PreTrainedTokenizerFast

Path(__file__).with_name("ran").write_text("yes")
Path("ran").write_text("yes")


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""
ASKS = {
    "config.json": {"AutoConfig": "own.OwnConfig"},
    "tokenizer_config.json": {"AutoTokenizer": [None, "own.OwnTokenizer"]},
}


def asking_folder(made: LoadedModel, folder: Path, file: str, known: bool = False) -> Path:
    """A whole model whose `file` names code in `own.py`; not `known`: of an architecture that only that code has."""
    with quiet_transformers():
        made.model.save_pretrained(folder)
        made.tokenizer.save_pretrained(folder)
    (folder / "own.py").write_text(CODE)
    fields = json.loads((folder / file).read_text()) | {"auto_map": ASKS[file]}
    if not known:
        fields |= {"model_type": "own"} if file == "config.json" else {"tokenizer_class": "OwnTokenizer"}
    (folder / file).write_text(json.dumps(fields))
    return folder
