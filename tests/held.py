"""What this process held in memory, by the system's own account (Linux)."""

import re
from pathlib import Path


def most_held() -> int:
    """Bytes at most since the last call."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    Path("/proc/self/clear_refs").write_text("5")
    assert found is not None
    return int(found[1]) * 1024
