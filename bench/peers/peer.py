"""What every peer benchmark prints: one JSON object {machine, versions, command, result}, or a line for each question."""

import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def report(result: dict, versions: dict[str, str], out: Path | None = None):
    """To `out`, or to stdout."""
    machine = {"cpu": cpu_name(), "cores": os.cpu_count()}
    versions = {"python": platform.python_version()} | versions
    command = " ".join(["python", os.path.basename(sys.argv[0]), *sys.argv[1:]])
    text = json.dumps({"machine": machine, "versions": versions, "command": command, "result": result}, indent=1)
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n")


def speaker() -> Callable[[dict], None]:
    """What writes answers to stdout, a line each. Whatever a library prints from now on is no answer and goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=answers, flush=True)


def resident_kib(field: str) -> int:
    """`VmRSS` (resident now) or `VmHWM` (its peak) of this process, in KiB; Linux only."""
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def forget_peak():
    """Start VmHWM anew from what is resident now."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
