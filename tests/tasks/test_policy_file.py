"""A policy file, TOML or YAML: what is right in it holds, and what is wrong is one line that names it."""

import json
import re

import pytest
import yaml

from editing.errors import PolicyError
from tasks.update.gates import Levels, Tripwires
from tasks.update.policy import NEIGHBORS, Policy, make_policy
from tasks.update.policy_file import given_policy
from tasks.update.records import stored_policy

TOML = """
batch_size = 5
[tripwires]
said = { then = "stop" }
said_chat = false
[levels.said_chat]
min = 0.9
worse_than_champion = 0.02
"""
YAML = """
batch_size: 5
tripwires: {said: {then: stop}, said_chat: null}
levels:
  said_chat: {min: 0.9, worse_than_champion: 0.02}
"""


@pytest.fixture
def written(tmp_path):
    def write(name: str, text: str | bytes):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write


def refusal(file, **values: object) -> str:
    with pytest.raises(PolicyError) as error:
        given_policy(file, values)
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    return said


def test_toml_and_yaml_say_the_same_and_what_they_do_not_say_is_the_default(written):
    found = given_policy(written("p.toml", TOML), {})
    assert found == given_policy(written("p.yaml", YAML), {}) == given_policy(written("p.yml", YAML), {})
    assert found.batch_size == 5 and found.min_efficacy == Policy().min_efficacy
    assert found.tripwires.said.then == "stop" and found.tripwires.said_chat is None
    assert found.levels.said_chat.min == 0.9 and found.levels.neighbors == NEIGHBORS["neighbors"]
    assert given_policy(written("empty.yaml", "# nothing\n"), {}) == given_policy(None, {}) == Policy()


def test_a_byte_order_mark_is_no_part_of_the_policy(written):
    for name, text in (("p.toml", "batch_size = 5"), ("p.yaml", "batch_size: 5")):
        assert given_policy(written(name, b"\xef\xbb\xbf" + text.encode()), {}).batch_size == 5


def test_a_number_may_be_text_and_whole_where_it_need_not_be(written):
    found = given_policy(None, {"batch_size": "3", "min_efficacy": 1, "in_context": False})
    assert (found.batch_size, found.min_efficacy, found.in_context) == (3, 1.0, False)


@pytest.mark.parametrize(
    "values",
    [
        {"tripwires.said.then": "stop", "tripwires.said": False},
        {"tripwires.said": False, "tripwires.said.then": "stop"},
    ],
    ids=["inside first", "inside last"],
)
def test_a_gate_switched_off_and_set_is_refused_in_either_order(values):
    assert "policy tripwires.said" in (said := refusal(None, **values)) and said.endswith("leave one out")


def test_a_single_value_stands_above_the_file_and_leaves_the_rest_of_it(written):
    values = {"batch_size": 3, "levels.said_chat.min": 0.8, "tripwires.said": None}
    found = given_policy(written("p.toml", TOML), values)
    assert (found.batch_size, found.levels.said_chat.min, found.levels.said_chat.worse_than_champion) == (3, 0.8, 0.02)
    assert found.tripwires.said is None


@pytest.mark.parametrize("policy", [Policy(), given_policy(None, {"levels.kl.max": 0.1, "max_locality_drop": 0.3})])
def test_a_policy_is_the_same_after_it_was_stored_or_sent(policy):
    assert make_policy(**json.loads(policy.model_dump_json())) == policy
    assert stored_policy(policy.model_dump(mode="json")) == policy


def test_what_neighborhoods_may_lose_is_set_for_the_job_as_well_by_who_sets_it():
    assert {name: getattr(Policy().levels, name) for name in NEIGHBORS} == NEIGHBORS
    assert not any(getattr(make_policy(max_locality_drop=0.3).levels, name) for name in NEIGHBORS)
    one_for_all = make_policy(levels={"neighbors": {"worse_than_base": 0.02}}).levels
    assert one_for_all.neighbors.worse_than_base == 0.02 and one_for_all.neighbors_said is None


def test_a_policy_of_before_has_no_gate_that_there_was_not():
    old = {name: value for name, value in Policy().model_dump().items() if name not in ("tripwires", "levels")}
    assert make_policy(**old).max_locality_drop == 0.15
    assert not any(stored_policy(old).tripwires.model_dump().values())
    assert not any(stored_policy(old).levels.model_dump().values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[levels.neighbors]\nworse_than_base = 3", "levels.neighbors.worse_than_base = 3.*less than or equal to 1"),
        ("[levels.sayd]\nmin = 1", "levels.sayd = .*fields are neighbors, neighbors_said, said"),
        ("[levels.said]\nmix = 1\nmin = 1", "levels.said.mix = 1.*fields are when, then, min"),
        ("[tripwires.said]\nthen = 'warm'", "tripwires.said.then = 'warm'.*'undo', 'stop' or 'warn'"),
        ("[tripwires.said]\nmost = 2", "said is one question a request, so most = 2 never trips; leave most out"),
        ("[tripwires.neighbors]\nmost = 5", "most = 5 never trips at neighborhood_probes = 5; lower it"),
        ("[levels.said]\nthen = 'stop'", "levels.said: a level without a threshold says nothing; give one of min"),
        ("[levels.said]\nmin = 0.5\nthen = 'undo'", "nothing is undone at the end of a job; choose then = stop"),
        ("[levels.neighbors]\nmin = 0.5", "neighbors has no min .= 0.5.; give one of worse_than_base"),
        ("[levels.old_chat]\nmax = 4", "old_chat.max = 4 is more than all; give a share up to 1"),
        (
            "retained_sample = 0\n[levels.retained]\nmin = 0.5",
            "levels.retained asks nobody, retained_sample is 0",
        ),
        ("colour = 'red'", "colour = 'red': [^;]*; fields are batch_size"),
        ("said = false", r"said = False: .*; did you mean 'tripwires\.said' or 'levels\.said'\? fields are batch_size"),
        ("min_eficacy = 1", r"min_eficacy = 1: .*; did you mean 'min_efficacy'\? fields are batch_size"),
        ("[levels.said]\nworse_than_bas = 1", r"did you mean 'levels\.said\.worse_than_base'\? fields are when"),
        ("batch_size = true", "batch_size = True: input should be a number, not true or false"),
        ("[levels.said]\nmin = true", "levels.said.min = True: input should be a number, not true or false"),
        ("[tripwires.neighbors]\nmost = false", "tripwires.neighbors.most = False: input should be a number"),
        ("batch_size = =", "is no TOML: .*line 1, column 14.*; correct it there"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_place_value_and_remedy(written, text, says):
    said = refusal(written("p.toml", text))
    assert said.startswith("policy file '") and "p.toml'" in said
    assert re.search(says, said), said


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.yaml", "a: b: c", "is no YAML: .*line 1, column 5"),
        ("p.yaml", "- 1\n- 2", "holds .1, 2.; give names with values"),
        ("p.yaml", "batch_size: 3\n'batch_size': 5", "p.yaml': name 'batch_size' stands in line 1 and in line 2"),
        ("p.yaml", "levels:\n  said:\n    min: 1\n    min: 0.5", "name 'min' stands in line 3 and in line 4"),
        ("p.yaml", "ability: [{file: a, file: b}]", "name 'file' stands in line 1 and in line 1"),
        ("p.yaml", "levels: {said: {min: yes}}", "levels.said.min = True: input should be a number, not true"),
        ("p.yaml", "1: 2", "name 1 is no text"),
        ("p.yaml", "a: &x [1]\nb: *x", "holds an alias"),
        ("p.yaml", "a: !!python/object/apply:os.system ['echo']", "is no YAML: could not determine a constructor"),
        ("p.yaml", b"\xff\xfe", "byte 0 is no UTF-8"),
        ("p.json", "{}", r"ends in '.json'; give a file that ends in .toml, .yaml, .yml"),
    ],
)
def test_what_is_no_policy_file_is_one_line(written, name, text, says):
    assert re.search(says, refusal(written(name, text)))


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    assert "cannot be read: No such file" in refusal(tmp_path / "none.toml")


def test_deep_and_large_files_end_in_one_line(written):
    assert "more than 100,000 bytes" in refusal(written("p.yaml", "a: " + "x" * 100_001))
    assert "policy file" in refusal(written("p.yaml", "[" * 700))


def test_every_gate_can_be_switched_off_and_has_a_description():
    for kind in (Tripwires, Levels):
        assert all(field.description for field in kind.model_fields.values())
        off = kind.model_validate(dict.fromkeys(kind.model_fields, False))
        assert not any(off.model_dump().values()) and yaml.safe_dump(off.model_dump())
