"""The installer: it counts what the constraints name, says how far it is, and takes up where it was cut short."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from deployments import install

ROOT = Path(__file__).resolve().parents[1]


def brought(names: list[str]) -> set[str]:
    """Everything that is installed for these requirements, by what the installed packages themselves ask for."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        for extra in wanted.extras or {""}:
            if (install.plain(wanted.name), extra) not in found:
                found.add((install.plain(wanted.name), extra))
                asked = map(Requirement, metadata.distribution(wanted.name).requires or ())
                waiting += [one for one in asked if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def named(target: str) -> set[str]:
    return {install.plain(pin) for pin in install.pins((ROOT / "constraints.txt").read_text(), target)}


def test_the_constraints_name_what_running_needs_and_what_tests_bring_beyond_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    running = brought(project["dependencies"]) | {"pip", install.MODEL}
    assert named("run") == running
    extras = project["optional-dependencies"]
    assert named("services") == running | brought(extras["services"])
    assert named("dev") == named("services") | brought(extras["dev"])
    assert named("docs") > running


def test_it_says_what_pip_does_how_far_it_is_and_for_how_long_still(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "COLLECTING", 0.5)
    (tmp_path / "typing_extensions-4.16.0-py3-none-any.whl").write_bytes(b" " * 3_500_000)
    progress = install.Progress(expected=4)
    assert progress.says({}, 2.0) == "at work; 2 s so far"
    for line in (
        "Collecting boto3>=1.36 (from errata-lm==0.2.0)",
        "  Downloading boto3-1.44.5-py3-none-any.whl (11.5 MB)",
        f"Processing {tmp_path}/typing_extensions-4.16.0-py3-none-any.whl (from errata-lm==0.2.0)",
        "Requirement already satisfied: typing-extensions in ./.venv/lib (from torch)",
    ):
        progress.read(line)
    assert progress.says({}, 11.0) == "collected 2 of 4 packages; 11 s so far, about 33 s more"
    progress.read("Installing collected packages: typing-extensions, boto3")
    one = {"typing-extensions": 9_000_000}  # a quarter of the weight, half a MB for each package itself
    assert progress.says(one, 50.0) == "unpacked 1 of 2 packages, 9 MB; 50 s so far, about 30 s more"


@pytest.fixture
def wheel(tmp_path) -> Path:
    """A package of one line, as pip takes it."""
    path, folder = tmp_path / "tiny_thing-1.0-py3-none-any.whl", "tiny_thing-1.0.dist-info"
    files = {
        "tiny_thing.py": "WORD = 'here'\n",
        f"{folder}/METADATA": "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{folder}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{folder}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.slow
def test_a_package_is_installed_with_a_word_all_the_time_and_again_if_it_was_cut_short(
    wheel, tmp_path, capsys, monkeypatch
):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next(venv.glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--no-index"]
    monkeypatch.setattr(install, "BEAT", 0.01)

    install.beat([*pip, str(wheel)], "a thing", site, install.Progress(1))
    first, *beats = capsys.readouterr().out.splitlines()
    assert first == "a thing …" and beats and all(re.search(r"; \d+ s so far", line) for line in beats)
    assert install.unpacked(site).keys() == {"tiny-thing"}
    assert install.unpacked(site)["tiny-thing"] > len("WORD = 'here'\n")

    (site / "tiny_thing-1.0.dist-info" / "RECORD").unlink()
    (site / "tiny_thing.py").unlink()
    install.forget_unfinished(site)
    install.beat([*pip, str(wheel)], "a thing", site, install.Progress(1))
    said = subprocess.run([venv / "bin" / "python", "-c", "import tiny_thing as t; print(t.WORD)"], capture_output=True)
    assert said.stdout == b"here\n"


def test_what_pip_replaces_just_now_is_not_counted(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "RECORD").write_text("a.py,,7\n")
    read = Path.read_text

    def replaced(path):
        if path.parent.name.startswith("one"):
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_text", replaced)
    assert install.unpacked(tmp_path) == {"two": 7}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends it")
def test_killed_it_leaves_no_pip_behind_that_would_work_beside_the_next(tmp_path):
    pip = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(120)"]
    says = "from pathlib import Path; from deployments import install as i; i.BEAT = 0.05; "
    says += "i.Progress.read = lambda self, line: print('pip', line, flush=True); "
    says += f"i.beat({pip!r}, 'pip', Path({str(tmp_path)!r}), i.Progress(1))"
    with subprocess.Popen([sys.executable, "-c", says], cwd=ROOT, stdout=subprocess.PIPE, text=True) as installer:
        number = next(int(line.split()[1]) for line in installer.stdout if line.startswith("pip ") and "…" not in line)
        assert psutil.pid_exists(number)
        installer.kill()
    psutil.wait_procs([psutil.Process(number)] if psutil.pid_exists(number) else [], timeout=60)
    assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


def test_what_pip_says_of_a_failure_is_shown(tmp_path, capfd):
    with pytest.raises(SystemExit, match="error: this failed, and can be run again"):
        install.beat(
            [sys.executable, "-m", "pip", "download", "--no-index", "no-such-thing", "-d", str(tmp_path)],
            "nothing",
            tmp_path,
            install.Progress(1),
        )
    assert "No matching distribution found for no-such-thing" in capfd.readouterr().err
