"""Print settings and answers in the course's format to one PDF: `python -m stance pdf STUDENT [FOLDER ...]`.

A folder is a project tree or the workspace of a run; without a folder, this tree is printed. Each folder begins a new
page. The page is one HTML file that fetches nothing, made from `answer_sheet.html.j2`. Headless Chromium prints it.
"""

import re
import shutil
import subprocess
from argparse import ArgumentParser
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
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-pdf-header-footer",
)
TIMEOUT = 120
"""Seconds that the browser may take. It needs two or three."""


class Setting(NamedTuple):
    """A parameter, its Chinese name, and its value."""

    name: str
    meaning: str
    value: str


class Part(NamedTuple):
    """The settings and the answers of one run."""

    folder: str
    settings: list[Setting]
    responses: list[Response]


def answer_sheet(student: str, folders: Sequence[Path], out: Path) -> None:
    """Print the settings and the answers of some runs to the PDF `out`.

    Raises:
        InputError: The student's number cannot be a file name, a folder holds no finished run, or there is no browser.
    """
    if not STUDENT.fullmatch(student):
        raise InputError(f"{student!r} cannot name a file; use letters, digits, - and _, for example b09901000")
    print_pdf(page(student, [part(folder) for folder in folders]), out)


def page(student: str, parts: Sequence[Part]) -> str:
    """Return the answer sheet as an HTML page."""
    return render(Path(__file__).with_name(TEMPLATE), student=student, parts=parts, fields=list(Response.model_fields))


def part(folder: Path) -> Part:
    """Return the settings and the answers in a project tree or in the workspace of a run.

    Raises:
        InputError: The folder does not exist, a file is missing or wrong, or other parameters made the answers.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; expected a run's workspace: `python -m stance runs` lists them")
    params = Params.load(folder / "params.yaml")
    responses = read_responses(folder / RESPONSES)
    refuse_other_parameters(folder)
    return Part(folder.resolve().name, settings(params), responses)


def refuse_other_parameters(folder: Path) -> None:
    """Refuse a folder if its `params.yaml` did not make its answers.

    The last stage, `report`, takes all parameters of a run, and DVC records them when the stage has finished. Without a
    `dvc.lock`, for example in a copy of two files, there is no record, and the folder is accepted.

    Raises:
        InputError: The parameters were changed, or the run has not finished.
    """
    lock = folder / "dvc.lock"
    if not lock.exists():
        return
    values = read_yaml(folder / "params.yaml")
    recorded = read_yaml(lock).get("stages", {}).get("report", {}).get("params", {}).get("params.yaml", {})
    # Both are parsed before they are compared, because DVC writes 1e-05, and YAML reads that as a text.
    before = Params.parse({**values, **recorded}, str(lock)) if recorded else None
    now = Params.parse(values, str(folder / "params.yaml"))
    changed = [key for key in recorded if getattr(before, key) != getattr(now, key)]
    if changed or not recorded:
        raise InputError(
            f"{folder / 'params.yaml'} did not make the answers there ({', '.join(changed) or 'no report yet'}); run "
            "`make repro` first, or name a finished run"
        )


def settings(params: Params) -> list[Setting]:
    """Return the settings that the course asks for, and the other ones that the answers depend on."""
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
    """Print a page to the PDF `out`. If this fails, an older `out` stays.

    Raises:
        InputError: There is no browser, or it prints nothing.
    """
    program = browser()
    # The folder is not in /tmp, because a browser from a snap has a /tmp of its own.
    with TemporaryDirectory(prefix="answer-sheet-", dir=out.parent, ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        (scratch / "sheet.html").write_text(markup, encoding="utf-8")
        _print(program, scratch)
        (scratch / "sheet.pdf").replace(out)


def browser() -> str:
    """Return the path of Chromium.

    Raises:
        InputError: There is no browser.
    """
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise InputError(f"no browser was found (tried: {', '.join(BROWSERS)}); install chromium to print a PDF")
    return program


def _print(program: str, scratch: Path) -> None:
    paths = [f"--user-data-dir={scratch / 'profile'}", f"--print-to-pdf={scratch / 'sheet.pdf'}"]
    command = [program, *OPTIONS, *paths, (scratch / "sheet.html").as_uri()]
    log = scratch / "log"
    try:
        with log.open("wb") as file:
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        raise InputError(f"{program} printed no PDF within {TIMEOUT} s; end other browsers and try again") from None
    if ended.returncode or not (scratch / "sheet.pdf").is_file():
        last_line = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2] or "nothing"
        raise InputError(
            f"{program} printed no PDF: its exit code is {ended.returncode}, and its last line is: {last_line}; try "
            f"whether `{program} --headless --dump-dom about:blank` works"
        )


def main() -> None:
    """Write `STUDENT.pdf`: `python -m stance pdf STUDENT [FOLDER ...]`."""
    parser = ArgumentParser(
        description="Print the settings and answers of runs to STUDENT.pdf, in the course's format."
    )
    parser.add_argument("student", nargs="?", help="the student's number, which names the PDF: b09901000")
    parser.add_argument("folders", nargs="*", type=Path, help="workspaces of runs (default: this folder)")
    arguments = parser.parse_args()
    if arguments.student is None:
        raise InputError("name the student, for example `make pdf STUDENT=b09901000`")
    out = Path(f"{arguments.student}.pdf")
    answer_sheet(arguments.student, arguments.folders or [Path()], out)
    print(f"The answer sheet: {out}")
