"""Policy and settings: every wrong value is one line, and docs/settings.md knows every field."""

import getpass
import os
import re
from pathlib import Path

import pytest

from editing.errors import PolicyError
from tasks.settings import SECRETS, SERVERS, Settings, load_settings, prepare_environment
from tasks.update.policy import Policy, make_policy

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
GATES = ("tripwires", "levels", "quantised", "too_few", "ability", "probes", "in_context", "on_conflict")
MAY_BE_NONE = ("rebase_every",)
NUMBERS = [name for name in Policy.model_fields if name not in GATES]
RANGES = {
    "batch_size": (0, 11),
    "min_efficacy": (-0.1, 1.1),
    "max_locality_drop": (-0.1, 1.1),
    "max_edit_locality_drop": (-0.1, 1.1),
    "min_fluency_ratio": (-0.1,),
    "max_perplexity_ratio": (0.9,),
    "min_retained": (-0.1, 1.1),
    "retained_sample": (-1, 1001),
    "neighborhood_probes": (0, 101),
    "fluency_prompts": (0, 101),
    "fluency_tokens": (2, 1001),
    "perplexity_tokens": (63,),
    "kl_tokens": (1023,),
    "live_facts": (-1, 10_001),
    "probed_facts": (0, 1001),
    "rebase_every": (-1,),
    "workers": (-1, 1001),
}


def refusal(**fields: object) -> str:
    with pytest.raises(PolicyError) as error:
        make_policy(**fields)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def test_every_field_has_a_range_a_description_and_a_place_in_these_tests():
    assert RANGES.keys() == {*NUMBERS} and {*NUMBERS, *GATES} == Policy.model_fields.keys()
    assert all(field.description for field in (*Policy.model_fields.values(), *Settings.model_fields.values()))


@pytest.mark.parametrize(("field", "value"), [(name, value) for name, values in RANGES.items() for value in values])
def test_a_value_out_of_range_is_named_with_its_limit(field, value):
    message = refusal(**{field: value})
    assert message.startswith(f"policy {field} = {value}: ") and re.search(r"(greater|less) than or equal to", message)


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "many", None, [1], {}, "9" * 100_000])
def test_what_is_no_finite_number_is_named(field, value):
    if value is None and field in MAY_BE_NONE:
        assert getattr(make_policy(**{field: None}), field) is None
        return
    assert refusal(**{field: value}).startswith(f"policy {field} = ")


def test_an_unknown_field_names_the_known_ones():
    message = refusal(min_beauty=1)
    assert message.startswith("policy min_beauty = 1: ") and all(name in message for name in NUMBERS)


def test_the_limits_themselves_are_allowed():
    make_policy(batch_size=10, min_efficacy=0, max_locality_drop=1, max_perplexity_ratio=1, retained_sample=0)


def test_no_policy_validates_more_than_ten_edits_together():
    assert Policy().batch_size == 10 and Policy.model_fields["batch_size"].metadata[1].le == 10


def test_thresholds_are_the_fields_that_a_validation_compares():
    found = make_policy(min_efficacy=0.5).as_thresholds()
    assert found["min_efficacy"] == 0.5 and set(found) == {n for n in NUMBERS if n.startswith(("min_", "max_"))}


@pytest.fixture
def page() -> str:
    """What docs/settings.md says."""
    return PAGE.read_text()


@pytest.mark.parametrize("field", Settings.model_fields)
def test_the_page_explains_every_setting(page, field):
    assert f"`ERRATA_{field.upper()}`" in page, f"{PAGE.name} misses the setting ERRATA_{field.upper()}"


@pytest.mark.parametrize("field", NUMBERS)
def test_the_page_explains_every_policy_field_with_its_default(page, field):
    row = re.search(rf"^\| `{field}` \| ([^|]+) \|", page, re.MULTILINE)
    assert row, f"{PAGE.name} misses the policy field {field}"
    default = getattr(Policy(), field)
    assert row[1] == "none" if default is None else float(row[1]) == default, f"{PAGE.name} gives another of {field}"


def test_the_page_explains_nothing_that_does_not_exist(page):
    named = set(re.findall(r"^\| `ERRATA_(\w+)` \|", page, re.MULTILINE))
    assert {name.lower() for name in named} == set(Settings.model_fields)


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ERRATA_{name.upper()}", raising=False)
    # What is told to other libraries through the environment is forgotten afterwards.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
                 "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", "ERRATA_SETTINGS"):  # fmt: skip
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_without_any_setting_everything_is_in_the_users_home(clean):
    settings = load_settings()
    home = clean / ".errata"
    assert settings.home_folder == home and home.is_dir() and settings.cache_folder == clean / ".cache" / "errata"
    assert (settings.store_uri, settings.ledger_uri) == (str(home / "snapshots"), str(home / "ledger"))
    assert (settings.mlflow_uri, settings.artifact_root) == (f"sqlite:///{home}/mlflow.db", str(home / "artifacts"))


def test_every_setting_comes_from_its_variable(clean, monkeypatch):
    given = {name: f"{clean}/{name}" for name in Settings.model_fields}
    given |= {name: f"http://127.0.0.1:4711/{name}" for name in SERVERS}
    given["tracking_uri"] = f"sqlite:///{clean}/mlflow.db"
    for name, value in given.items():
        monkeypatch.setenv(f"ERRATA_{name.upper()}", value)
    settings = load_settings()
    assert settings.mlflow_uri == given["tracking_uri"]
    assert all(str(getattr(settings, name)) == given[name] for name in Settings.model_fields if name not in SECRETS)
    assert all(getattr(settings, name).get_secret_value() == given[name] for name in SECRETS)
    assert settings.store_uri == f"{clean}/store" and settings.who == f"{clean}/actor"


@pytest.mark.parametrize("name", ["home", "cache"])
def test_a_folder_that_cannot_be_made_is_one_line(clean, monkeypatch, name):
    (clean / "file").write_text("")
    monkeypatch.setenv(f"ERRATA_{name.upper()}", str(clean / "file" / "below"))
    with pytest.raises(PolicyError, match=r"cannot create .*/file.*: Not a directory; set ERRATA_HOME / ERRATA_CACHE"):
        load_settings()


def test_a_user_without_a_name_or_home_is_no_obstacle(clean, monkeypatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert re.fullmatch(r"user \d+", load_settings().who)

    def nowhere(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(PolicyError, match="set ERRATA_HOME and ERRATA_CACHE to folders"):
        load_settings()


def test_what_the_user_set_for_prefect_and_mlflow_stays(clean, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", "/mine")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    prepare_environment(load_settings())
    assert os.environ["PREFECT_HOME"] == "/mine" and os.environ["DO_NOT_TRACK"] == "1"


SECRET_LINES = """
store = "s3://bucket/errata"
s3_access_key = "errata"
s3_secret_key = "hidden-key"
prefect_auth = "admin:hidden-word"
mlflow_password = "hidden-word"
"""


def test_one_file_holds_what_variables_would_and_a_variable_stands_above_it(clean, monkeypatch):
    (clean / ".errata").mkdir()
    (clean / ".errata" / "settings.toml").write_text('model = "usual"')
    assert load_settings().model == "usual"
    named = clean / "named.toml"
    named.write_text(SECRET_LINES)
    monkeypatch.setenv("ERRATA_SETTINGS", str(named))
    settings = load_settings()
    assert (settings.model, settings.store) == ("embedded", "s3://bucket/errata")
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hidden-key" and os.environ["AWS_ACCESS_KEY_ID"] == "errata"
    assert os.environ["PREFECT_API_AUTH_STRING"] == "admin:hidden-word"
    monkeypatch.setenv("ERRATA_STORE", "/mine")
    assert load_settings().store == "/mine"


def test_a_secret_is_shown_nowhere(clean, monkeypatch):
    (clean / "named.toml").write_text(SECRET_LINES)
    monkeypatch.setenv("ERRATA_SETTINGS", str(clean / "named.toml"))
    settings = load_settings()
    assert "hidden" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stroe = 1", r"setting 'stroe' in .*named.toml is unknown; known are home, cache, store"),
        ("store =", r"settings in .*named.toml: .*; correct the file"),
        ("model = 3", r"setting ERRATA_MODEL = 3: "),
        ("webhook_secret = 471147114711", r"^setting ERRATA_WEBHOOK_SECRET: "),
        ("store = 'gs://x'", r"gs:// is not served"),
    ],
)
def test_a_wrong_file_is_one_line(clean, monkeypatch, text, message):
    (clean / "named.toml").write_text(text)
    monkeypatch.setenv("ERRATA_SETTINGS", str(clean / "named.toml"))
    with pytest.raises(PolicyError, match=message) as error:
        load_settings()
    assert "\n" not in str(error.value) and "4711" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(clean, monkeypatch):
    monkeypatch.setenv("ERRATA_SETTINGS", str(clean / "none.toml"))
    with pytest.raises(PolicyError, match=r"ERRATA_SETTINGS = '.* is no file: correct or unset it"):
        load_settings()
