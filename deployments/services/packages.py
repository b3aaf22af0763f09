"""Debian packages: what pip does not bring."""

import os
import shutil
import subprocess

from filelock import FileLock

from deployments.services.daemons import ServiceError
from flows.cli.console import waiting

LOCK = "/run/errata-apt.lock"
"""Where only root may put a file."""


def installable() -> bool:
    """Whether this process may install a package."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str, what: str) -> None:
    """Install a package that is missing, one process after another.

    Args:
        what: The program's name, for whoever must install it by hand.

    Raises:
        ServiceError: this process may not, or it failed.
    """
    command = ["apt-get", "install", "-y", "--no-install-recommends", package]
    if not installable():
        raise ServiceError(f"{what} is missing: install it ({' '.join(command)} on Debian, as root), then repeat")
    # A server that a package brings is not started: only its programs are wanted.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with waiting(f"installing the Debian package {package}"), FileLock(LOCK):
        for each in (["apt-get", "update"], command):
            done = subprocess.run(each, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ServiceError(f"{' '.join(command)} failed: {' '.join(done.stderr.split())[-300:]}")
