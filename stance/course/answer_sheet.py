"""Settings and answers in the course's format, printed to one PDF: `python -m stance pdf STUDENT [FOLDER ...]`.

A folder is a project tree or a run's workspace, without one it is this tree; each begins a new page. Headless Chromium
prints the page, a single file that fetches nothing. Markup is in `listing.html.j2`.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from stance.config.params import Params
from stance.data.answers import RESPONSES, Response, read_responses
from stance.errors import InputError
from stance.machine.files import read_yaml
from stance.pages.render import render

TEMPLATE = "answer_sheet.html.j2"
STUDENT = re.compile(r"[A-Za-z0-9_-]+")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-pdf-header-footer",
)
LIMIT = 120
"""Seconds that the browser may take; it needs two or three."""


class Setting(NamedTuple):
    """A parameter, what it is called in Chinese, and its value."""

    name: str
    meaning: str
    value: str


class Part(NamedTuple):
    """What one run was made with, and what it answered."""

    folder: str
    settings: list[Setting]
    responses: list[Response]


def listing(student: str, folders: Sequence[Path], out: Path) -> None:
    """Print the settings and answers in some folders to the PDF `out`.

    Raises:
        InputError: The student's number is no file name, a folder holds no run or one that is out of date, or there is
            no browser.
    """
    if not STUDENT.fullmatch(student):
        raise InputError(f"{student!r} cannot name a file; write the number in letters, digits, - and _: b09901000")
    print_pdf(page(student, [part(folder) for folder in folders]), out)


def page(student: str, parts: Sequence[Part]) -> str:
    """Return the page about some runs."""
    return render(Path(__file__).with_name(TEMPLATE), student=student, parts=parts, fields=list(Response.model_fields))


def part(folder: Path) -> Part:
    """Return what is in a project tree or a run's workspace.

    Raises:
        InputError: There is no such folder, a file is missing or wrong, or other parameters made the answers.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected a run's workspace: `python -m stance runs` lists them")
    params = Params.load(folder / "params.yaml")
    responses = read_responses(folder / RESPONSES)
    refuse_other_parameters(folder)
    return Part(folder.resolve().name, settings(params), responses)


def refuse_other_parameters(folder: Path) -> None:
    """Refuse a folder whose `params.yaml` is not what its answers were made with.

    The last stage, `report`, takes all parameters of a run, and DVC notes them once the stage is through. Files that
    were copied somewhere without `dvc.lock` are believed.

    Raises:
        InputError: The parameters were changed, or the run has not come to its end.
    """
    lock = folder / "dvc.lock"
    if not lock.exists():
        return
    now = read_yaml(folder / "params.yaml")
    made = read_yaml(lock).get("stages", {}).get("report", {}).get("params", {}).get("params.yaml", {})
    then = Params.parse({**now, **made}, str(lock)) if made else None  # DVC writes 1e-05, which YAML reads as a text
    given = Params.parse(now, str(folder / "params.yaml"))
    changed = [key for key in made if getattr(then, key) != getattr(given, key)]
    if changed or not made:
        found = f"{folder / 'params.yaml'} is not what made the answers there ({', '.join(changed) or 'no report yet'})"
        raise InputError(f"{found}; run `make repro` first, or name a run that is complete")


def settings(params: Params) -> list[Setting]:
    """Return what the course asks for, and what the answers depend on besides."""
    pairs, train = params.pairs, params.train
    return [
        Setting("num_epoch", "訓練輪數", _number(train.num_epoch)),
        Setting("data_size", "訓練資料筆數", _number(pairs.data_size)),
        Setting("support_ratio", "偏好支持的比例", _number(pairs.support_ratio)),
        Setting("beta", "DPO 的 beta", _number(train.beta)),
        Setting("learning_rate", "學習率", _number(train.learning_rate)),
        Setting("r", "LoRA 的秩", _number(train.r)),
        Setting("lora_alpha", "LoRA 的縮放", _number(train.lora_alpha)),
        Setting("system_prompt", "系統提示", params.model.system_prompt),
        Setting("base", "原始模型", params.base.origin),
        Setting("dataset", "資料集", params.dataset.origin),
    ]


def _number(value: float | Decimal) -> str:
    return f"{float(value):.12g}"


def print_pdf(markup: str, out: Path) -> None:
    """Print a page; `out` is replaced only once there is something to replace it.

    Raises:
        InputError: There is no browser, or it prints nothing.
    """
    found = browser()
    # Not in /tmp, which a browser that is a snap has for itself.
    with TemporaryDirectory(prefix="listing-", dir=out.parent, ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        (scratch / "listing.html").write_text(markup, encoding="utf-8")
        _print(found, scratch)
        (scratch / "listing.pdf").replace(out)


def browser() -> str:
    """Return the path of a Chromium.

    Raises:
        InputError: There is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise InputError(f"no browser was found (tried: {', '.join(BROWSERS)}); install chromium to print a PDF")
    return found


def _print(program: str, scratch: Path) -> None:
    paths = [f"--user-data-dir={scratch / 'profile'}", f"--print-to-pdf={scratch / 'listing.pdf'}"]
    command = [program, *QUIET, *paths, (scratch / "listing.html").as_uri()]
    log = scratch / "log"
    try:
        with log.open("wb") as file:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise InputError(f"{program} printed no PDF within {LIMIT} s; end other browsers and try again") from None
    if done.returncode or not (scratch / "listing.pdf").is_file():
        said = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2] or "nothing"
        found = f"{program} printed no PDF: it ended with {done.returncode} and said {said}"
        raise InputError(f"{found}; see whether `{program} --headless --dump-dom about:blank` works")


def main() -> None:
    """Write `STUDENT.pdf`: `python -m stance pdf STUDENT [FOLDER ...]`."""
    if len(sys.argv) < 2:
        raise InputError("name the student, for example `make pdf STUDENT=b09901000`")
    student, *folders = sys.argv[1:]
    out = Path(f"{student}.pdf")
    listing(student, [Path(folder) for folder in folders] or [Path()], out)
    print(f"The listing: {out}")
