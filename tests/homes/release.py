"""`errata` of any release, in a process of its own: the code is a folder, and nothing of it is imported here."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[2]
"""The code that these tests belong to."""
MAIN = """
try:
    from flows.cli.main import main
except ModuleNotFoundError:  # release 0.1 has its command line in one file
    from flows.cli import main
"""
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}


def environment(code: Path, **more: str) -> dict[str, str]:
    """What a process needs that is to import `code`; settings of Errata and Prefect are those given, no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ERRATA_", "PREFECT_"))}
    return {**inherited, **QUIET, "PYTHONPATH": str(code), **more}


def run(code: Path, settings: Mapping[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """`errata ARGUMENTS` as `code` has it. Its folder is the working one: Python looks for modules there first."""
    command = [sys.executable, "-c", f"{MAIN}\nmain()", *map(str, arguments)]
    return subprocess.run(command, cwd=code, env=environment(code, **settings), capture_output=True, text=True)


def answer(code: Path, settings: Mapping[str, str], *arguments: object) -> Any:
    """What `errata ARGUMENTS --json` prints. Raises RuntimeError with what it said when it fails."""
    ran = run(code, settings, *arguments, "--json")
    if ran.returncode:
        raise RuntimeError(f"errata {' '.join(map(str, arguments))}: {ran.stderr.strip()[-2000:]}")
    return json.loads(ran.stdout)
