"""MLflow's pages in Debian's Chromium, looked at as a reviewer does: their text, and pictures of them for the docs."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from deployments.services import packages
from deployments.services.daemons import ServiceError

CHROMIUM = Path("/usr/bin/chromium")
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WIDTH, HEIGHT, COLOURS, LARGEST = 1180, 900, 48, 60_000
WANTED = bool(os.environ.get("ERRATA_PICTURES"))  # read before a test takes the variable away
PATIENCE = 180_000
"""Milliseconds: MLflow's pages load megabytes of script, on a busy machine for many seconds."""


def chromium() -> Path:
    """The program; a test that needs it is skipped where it is missing and cannot be installed."""
    if not CHROMIUM.exists():
        try:
            packages.install("chromium", "Chromium")
        except ServiceError as error:
            pytest.skip(str(error))
    return CHROMIUM


@contextmanager
def browser(**options: object) -> Iterator["object"]:
    """A page of a browser that keeps what other hosts it asked and what dialogs came up, in `page.strange`.

    Args:
        options: Of its context, such as `http_credentials`.
    """
    program = chromium()
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    with api.sync_playwright() as player:
        started = player.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        page = started.new_page(viewport={"width": WIDTH, "height": HEIGHT}, **options)
        page.context.set_default_timeout(PATIENCE)  # of the pages that it opens, too
        page.strange = []
        page.on("request", lambda one: page.strange.append(one.url) if "evil" in one.url else None)
        page.on("dialog", lambda one: (page.strange.append(one.message), one.dismiss()))
        yield page
        started.close()


def close_assistant(page) -> None:
    """MLflow's assistant covers a third of a page that is new to it."""
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()


def picture(page, name: str) -> None:
    """A small picture of what is seen, for the documentation where ERRATA_PICTURES is set; it must be small anyhow."""
    seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    made = io.BytesIO()
    seen.quantize(COLOURS, dither=Image.Dither.NONE).save(made, "PNG", optimize=True)
    assert len(made.getvalue()) <= LARGEST, f"{name}: {len(made.getvalue())} bytes"
    if WANTED:
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"{name}.png").write_bytes(made.getvalue())
