"""compose.yaml and the manifests of Kubernetes, which nothing here can run: form, names, secrets."""

import copy
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deployments.services.catalogue import RECEIVER, all_services
from deployments.services.place import make_place
from tasks.secrets import SECRET_NAME
from tasks.settings import Settings
from tests.deployments.manifest_schemas import COMPOSE, KINDS

FOLDER = Path(__file__).resolve().parents[2] / "deployments"
ASKED = set(re.findall(r"^(\w+)=$", (FOLDER / "errata.env.example").read_text(), re.MULTILINE))


@cache
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / "compose.yaml").read_text()))


@cache
def manifests() -> list[dict[str, Any]]:
    return [
        item for path in sorted((FOLDER / "kubernetes").glob("*.yaml")) for item in yaml.safe_load_all(path.read_text())
    ]


def of_kind(*kinds: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item["spec"] for item in manifests() if item["kind"] in kinds}


def pods() -> dict[str, dict[str, Any]]:
    return {name: spec["template"]["spec"] for name, spec in of_kind("Deployment", "StatefulSet").items()}


def containers() -> list[dict[str, Any]]:
    return [one for pod in pods().values() for one in (*pod["containers"], *pod.get("initContainers", ()))]


def commands() -> list[list[str]]:
    """Of both: containers without one run what their image does."""
    return [one["command"] for one in (*compose()["services"].values(), *containers()) if "command" in one]


def environments() -> list[dict[str, Any]]:
    """Of both: a variable's text, or None where it comes from the secret."""
    ours = [service.get("environment", {}) for service in compose()["services"].values()]
    return [*ours, *({one["name"]: one.get("value") for one in container.get("env", ())} for container in containers())]


def test_compose_has_its_form():
    jsonschema.validate(compose(), COMPOSE)


@pytest.mark.parametrize(
    "place", [("services", "mlflow", "comand"), ("services", "worker", "restart"), ("services", "prefect", "ports")]
)
def test_a_mistake_in_compose_is_found(place):
    wrong = copy.deepcopy(compose())
    part = wrong
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = ["0.0.0.0:4200:4200"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, COMPOSE)


@pytest.mark.parametrize(
    "item", manifests(), ids=lambda item: f"{item['kind']} {item.get('metadata', {}).get('name', '')}"
)
def test_each_manifest_has_its_form(item):
    jsonschema.validate(item, KINDS[item["kind"]])


def test_both_have_the_services_that_make_up_has():
    ours = {*all_services(), "webhooks"} - {"logs"}  # containers keep their logs
    assert set(compose()["services"]) - {"bucket"} == ours
    assert set(pods()) == ours


def test_what_is_named_in_compose_is_there():
    services, volumes = compose()["services"], set(compose()["volumes"])
    assert all(set(service.get("depends_on", ())) <= set(services) for service in services.values())
    assert {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())} == volumes
    used = {config["source"] for service in services.values() for config in service.get("configs", ())}
    assert used == set(compose()["configs"])
    assert (FOLDER.parent / services["worker"]["build"]["dockerfile"]).is_file()


def test_what_is_named_in_the_manifests_is_there():
    kustomization = next(item for item in manifests() if item["kind"] == "Kustomization")
    files = {path.name for path in (FOLDER / "kubernetes").glob("*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml"}
    runs = of_kind("Deployment", "StatefulSet")
    for spec in runs.values():
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        pod, claimed = spec["template"]["spec"], spec.get("volumeClaimTemplates", ())
        there = {*(volume["name"] for volume in pod.get("volumes", ())), *(one["metadata"]["name"] for one in claimed)}
        every = [*pod["containers"], *pod.get("initContainers", ())]
        assert {mount["name"] for one in every for mount in one.get("volumeMounts", ())} == there
    for service in of_kind("Service").values():
        pod = pods()[service["selector"]["app"]]
        assert [port["targetPort"] for port in service["ports"]] == [
            port["containerPort"] for port in pod["containers"][0]["ports"]
        ]


def test_what_is_asked_for_is_what_is_used_and_no_secret_stands_there():
    text = (FOLDER / "compose.yaml").read_text()
    # What is missing is named, and nothing has a default.
    assert set(re.findall(r"\$\{[^}]*\}", text)) == {f"${{{name}:?}}" for name in ASKED}
    keys = [
        one["valueFrom"]["secretKeyRef"] for container in containers() for one in container["env"] if "valueFrom" in one
    ]
    assert {key["key"] for key in keys} == ASKED and {key["name"] for key in keys} == {"errata"}
    secret = re.compile(rf"{SECRET_NAME.pattern}|_(KEY|AUTH|AUTH_STRING)$", re.IGNORECASE)
    for name, value in ((name, value) for one in environments() for name, value in one.items() if value is not None):
        known = name.endswith(("ACCESS_KEY_ID", "S3_ACCESS_KEY", "ACCESS_KEY"))  # the name of a key
        if secret.search(name) and not (known and value == "errata"):
            assert "$" in value, name
        assert not re.search(r"://\w+:(?!\$)[^/]*@", value), name


def test_each_setting_and_module_that_is_named_exists():
    named = {
        name.removeprefix("ERRATA_").lower() for one in environments() for name in one if name.startswith("ERRATA_")
    }
    assert len(named) > 10 and named <= set(Settings.model_fields)
    modules = {command[2] for command in commands() if command[:2] == ["python", "-m"]}
    assert modules == {"flows.cli.prefect_pages", RECEIVER}
    assert all(importlib.util.find_spec(module) for module in modules - {RECEIVER})


def options(command: list[str]) -> set[str]:
    return {word.split("=")[0] for word in command if word.startswith("-")}


@pytest.mark.parametrize(("program", "service"), [("weed", "seaweedfs"), ("mlflow", "mlflow"), ("prefect", "worker")])
def test_programs_get_options_that_make_up_gives_them(tmp_path, program, service):
    known = options(list(all_services()[service].command(make_place(tmp_path, {}, True, True)).arguments))
    given = [options(command) for command in commands() if command[0] == program]
    assert len(given) == 2 and all(one and one <= known for one in given), [one - known for one in given]
