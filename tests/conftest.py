"""Fixtures for all tests: tiny random models, a small trained one, the embedded one, and the folder of real data."""

import copy
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import certifi

from flows.cli.app import set_defaults

# Before anything is imported that reads them: no test calls home, and none touches the user's own Prefect.
set_defaults()
# Nor does any find the settings of whoever runs them: only where models, data and results of tests are kept.
_KEPT = {
    "ERRATA_CACHE",
    "ERRATA_DATA",
    "ERRATA_PICTURES",
    "ERRATA_TEST_CACHE",
    "ERRATA_TEST_EXTENT",
    "ERRATA_TEST_MODELS",
}
for _name in [name for name in os.environ if name.startswith("ERRATA_") and name not in _KEPT]:
    del os.environ[_name]
# What is compiled once is kept, whatever the shell says: processes of tests would compile all of it again and again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Workers side by side have one thread each, also in what they start; a run without them has two.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
_PREFECT_HOME = tempfile.TemporaryDirectory(prefix="errata-prefect-", ignore_cleanup_errors=True)
os.environ["PREFECT_HOME"] = _PREFECT_HOME.name
# Each client of a server reads whom to trust by TLS, of which there is none here: of the many one, 40 ms sooner.
_TRUSTED = Path(_PREFECT_HOME.name) / "trusted.pem"
_CERTIFICATE_END = "-----END CERTIFICATE-----\n"
_TRUSTED.write_text(Path(certifi.where()).read_text().partition(_CERTIFICATE_END)[0] + _CERTIFICATE_END)
os.environ["SSL_CERT_FILE"] = str(_TRUSTED)

import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import (  # noqa: E402
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from editing.errors import ModelError  # noqa: E402
from editing.models import EMBEDDED, LoadedModel, base_digest, load_model  # noqa: E402
from tests import costs  # noqa: E402
from tests.databases import mlflow_database  # noqa: E402
from tests.fact_model import fact_model  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(costs)  # as a plugin, since the session's fixtures are not this folder's


@pytest.fixture(autouse=True, scope="session")
def migrated_once() -> Iterator[None]:
    """A new home in a test's own process has a copy of MLflow's database; processes that tests start make theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.tracking.making._migrate", mlflow_database)
        yield


@pytest.fixture(autouse=True, scope="module")
def no_thread_of_an_earlier_server() -> Iterator[None]:
    """Prefect's threads that send events and log lines stay with the server that they were started for.

    Of a later one they would try in vain, ten seconds an event, and meanwhile hold what its runs held.
    """
    if "prefect.events.worker" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        EventsWorker.drain_all(timeout=10)
        APILogWorker.drain_all(timeout=10)
    yield


@pytest.fixture(autouse=True)
def mlflow_finds_its_databases_anew() -> Iterator[None]:
    """An address that one test gives MLflow as its process's own would win over the environment of the next."""
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


VOCABULARY = 320
END = "<|endoftext|>"
SENTENCES = (
    "Ada Lovelace was born in the city of London and lives in Rome.",
    "The river Nile flows through a very long canyon near the sea.",
    "The old man said that the moon and the sun are never seen together.",
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few merges: any text has tokens, most words have several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def tiny_model(architecture: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A random model of 4 layers and hidden size 32, the same at every call; float64 for laws that hold exactly."""
    return copy.deepcopy(_tiny_model(architecture, dtype))


@functools.cache  # a copy takes a third of the time
def _tiny_model(architecture: str, dtype: torch.dtype) -> LoadedModel:
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if architecture == "llama":
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=4,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    max_position_embeddings=256,
                    bos_token_id=end,
                    eos_token_id=end,
                )
            )
        else:
            model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=len(tokenizer),
                    n_embd=32,
                    n_layer=4,
                    n_head=4,
                    n_positions=256,
                    bos_token_id=end,
                    eos_token_id=end,
                )
            )
    model = model.to(dtype).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, f"tiny-{architecture}", base_digest(model))


@pytest.fixture
def tiny_llama() -> LoadedModel:
    return tiny_model("llama")


@pytest.fixture
def saved(tiny_llama, tmp_path) -> Path:
    """A folder of that model."""
    folder = tmp_path / "saved"
    tiny_llama.model.save_pretrained(folder)
    tiny_llama.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_gpt2() -> LoadedModel:
    return tiny_model("gpt2")


@pytest.fixture
def tiny_llama_f64() -> LoadedModel:
    return tiny_model("llama", torch.float64)


@pytest.fixture
def tiny_gpt2_f64() -> LoadedModel:
    return tiny_model("gpt2", torch.float64)


@pytest.fixture(scope="session")
def fact_model_path() -> Path:
    """Folder of the model of tests/fact_model.py; ERRATA_TEST_CACHE says where trained ones are kept."""
    return fact_model()


@pytest.fixture(scope="session")
def embedded() -> LoadedModel:
    """SmolLM2-135M-Instruct, one for the whole session: leave it as you found it."""
    cache = Path(os.environ.get("ERRATA_CACHE", "~/.cache/errata")).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache / "tests.lock"):  # where it is not yet cached, one worker converts it for all
            return load_model(EMBEDDED, cache=cache)
    except ModelError as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real benchmark data, where there is one."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ERRATA_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no benchmark data at {folder}; ERRATA_DATA names its folder")
    return folder


@pytest.fixture
def impatient() -> Iterator[None]:
    """MLflow waits 20 s for a locked SQLite database before it says so; here a fifth of a second."""
    from sqlalchemy import Engine, event

    def sooner(connection, cursor, statement, parameters, context, executemany):  # type: ignore[no-untyped-def]
        return statement.replace("busy_timeout = 20000", "busy_timeout = 200"), parameters

    event.listen(Engine, "before_cursor_execute", sooner, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", sooner)
