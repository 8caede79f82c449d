"""The report with commit, date, duration, machine and versions, in `data/made`.

`data/report` holds none of these, because DVC compares its bytes on every machine. The copy is no output of a stage:
the end of `make repro` and of a run in a workspace writes it anew. Its commit is that of the code in the folder, which
DVC has just compared with the outputs.
"""

import os
import platform
import re
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from stance.language.translation import LANGUAGES, speaking
from stance.machine.files import read_yaml
from stance.machine.git import attempt
from stance.machine.memory import gib, memory
from stance.machine.timing import SECONDS, read_seconds
from stance.pages.render import CATALOGUE, render
from stance.runs.provenance import CODE
from stance.runs.record import RECORD, Run

REPORT, MADE = Path("data/report"), Path("data/made")
PACKAGES = ("torch", "transformers", "trl", "peft", "vllm", "dvc", "scikit-learn")
"""The packages whose versions may change a result."""
PLACE = re.compile(r'<p class="note" id="made">.*?</p>\n', re.DOTALL)
"""The sentence of the report in whose place the facts stand in the copy."""
GPUS = Path("/proc/driver/nvidia/gpus")


class Made(NamedTuple):
    """How, when and where a run was made."""

    commit: str
    edited: bool
    """Had the code uncommitted edits?"""
    date: str
    """When the last stage ran here, with the time zone; empty if none has."""
    seconds: Mapping[str, float]
    """By stage, for those that ran here rather than came from the cache."""
    machine: str
    versions: Mapping[str, str]


def write_made(folder: Path = Path()) -> Path | None:
    """Write the report of a run with its facts, in each language; return the first page, None without a report."""
    reports = {language: folder / REPORT / language.page for language in LANGUAGES}
    reports = {language: report for language, report in reports.items() if report.is_file()}
    if not reports:
        return None
    facts = made(folder)
    (folder / MADE).mkdir(parents=True, exist_ok=True)
    for language, report in reports.items():
        with speaking(language, CATALOGUE):
            block = render(Path(__file__).with_name("made.html.j2"), made=facts)
        page = PLACE.sub(block.replace("\\", r"\\"), report.read_text(encoding="utf-8"))
        (folder / MADE / language.page).write_text(page, encoding="utf-8")
    return folder / MADE / next(iter(reports)).page


def made(folder: Path) -> Made:
    """Return how the run in a folder was made."""
    return Made(commit(folder), edited(folder), *when(folder), machine(), versions())


def commit(folder: Path) -> str:
    """Return the commit of the code that a run works on; empty in a folder without a commit."""
    if (folder / RECORD).exists():
        return Run.read(folder).commit
    ended = attempt(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    return "" if ended.returncode else ended.stdout.decode().strip()


def edited(folder: Path) -> bool:
    """Return whether the code or the parameters of a run had uncommitted edits."""
    if (folder / RECORD).exists():
        run = Run.read(folder)
        return run.snapshot != run.commit
    return bool(attempt(folder, "status", "--porcelain", "--", *CODE, "params.yaml").stdout)


def when(folder: Path) -> tuple[str, Mapping[str, float]]:
    """Return the date of a run, and the seconds of each stage that ran."""
    if (folder / RECORD).exists():
        run = Run.read(folder)
        return _date(run.created), run.seconds
    seconds = read_seconds(list(read_yaml(folder / "dvc.yaml")["stages"]))
    times = [(SECONDS / stage).stat().st_mtime for stage in seconds]
    return _date(datetime.fromtimestamp(max(times)).astimezone()) if times else "", seconds


def _date(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M %z")


def machine() -> str:
    """Return the system, the processors, the memory and the GPUs of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{platform.system()} {platform.machine()}", f"{cores} CPU", f"{gib(memory().total)} GiB"]
    return ", ".join([*parts, *gpus()])


def gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs of this machine."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(GPUS.glob("*/information"))]
    return [name.strip() for text in texts for name in re.findall(r"^Model:(.*)$", text, re.MULTILINE)]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
