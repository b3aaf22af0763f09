"""Laws of names: what a line may be called, every outside system takes, and no two names become one."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_model_name
from prefect.types.names import ArtifactKey
from pydantic import TypeAdapter

from editing.errors import UsageError
from tasks.names import artifact_key, check_line, check_model_name, unknown_line

lines = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(lambda name: ".." not in name)
models = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", fullmatch=True)
near = st.text("a-._", min_size=1, max_size=4).map(lambda tail: f"a{tail}").filter(lambda name: ".." not in name)
kinds = st.sampled_from(["summary", "progress", "training"])


@given(st.one_of(lines, near), kinds)
@example("smollm2_memit", "summary")
@example("a.", "progress")
def test_every_line_has_an_artifact_key_that_prefect_takes_and_a_model_that_mlflow_takes(line, kind):
    assert check_line(line) == check_model_name(line) == line
    TypeAdapter(ArtifactKey).validate_python(artifact_key(line, kind))
    _validate_model_name(line)


@given(models)
def test_every_model_name_is_mlflows_too_and_has_an_artifact_key(name):
    _validate_model_name(check_model_name(name))
    TypeAdapter(ArtifactKey).validate_python(artifact_key(name, "training"))


@pytest.mark.slow
@given(st.sets(st.tuples(st.one_of(near, lines, models), kinds), min_size=2, max_size=20))
@example({("a.b", "summary"), ("a_b", "summary"), ("a-b", "summary"), ("a--b", "summary"), ("A-b", "summary")})
def test_names_or_kinds_that_differ_have_keys_that_differ(named):
    assert len({artifact_key(name, kind) for name, kind in named}) == len(named)


def test_a_name_of_plain_words_stays_readable():
    assert artifact_key("smollm2-memit", "progress") == "smollm2-memit-progress"
    assert artifact_key("smollm2.v1", "progress").startswith("smollm2-v1--")


@pytest.mark.parametrize("kind", ["", "two-words", "Summary"])
def test_a_kind_is_one_word(kind):
    with pytest.raises(UsageError, match="one word"):
        artifact_key("main", kind)


@pytest.mark.parametrize("name", ["", "a/b", "a:b", ".hidden", "-o", "a b", "a'b", "ä", "a" * 201, "a\udce9"])
def test_names_that_mlflow_could_not_keep_or_find_are_refused(name):
    with pytest.raises(UsageError, match="cannot be the name of a model in MLflow: a name has"):
        check_model_name(name)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ([], "there is no line 'mian', nor any other; `errata submit FILE --line mian` begins it"),
        (["other"], "there is no line 'mian'; lines are other"),
        (["b", "main", "a"], "there is no line 'mian'; did you mean 'main'? lines are a, b, main"),
        (
            (f"{i:02}" for i in range(50)),
            f"there is no line 'mian'; lines are {', '.join(f'{i:02}' for i in range(20))}",
        ),
    ],
)
def test_a_line_that_nobody_knows_is_answered_with_those_that_there_are(known, said):
    message = str(unknown_line("mian", known))
    assert message.removesuffix(" and 30 more") == said and "\n" not in message


def test_that_there_is_no_such_line_is_said_in_one_way():
    root = Path(__file__).parents[2]
    files = [file for folder in ("tasks", "flows") for file in (root / folder).rglob("*.py")]
    words = ("no line '", "line '{line}' does not exist", "no such line '")
    told = [file.name for file in files if any(some in file.read_text() for some in words)]
    assert told == ["names.py"]
