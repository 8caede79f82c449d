"""The answer sheet for the course, on small runs made by hand: as a page, and printed by the system's own browser."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
import yaml

from stance.config.params import Params
from stance.config.profiles import PROFILES, compose
from stance.course import answer_sheet as module
from stance.course.answer_sheet import answer_sheet, main, page, part, print_pdf, settings
from stance.data.answers import RESPONSES
from stance.errors import InputError
from stance.machine.files import read_yaml

HOSTILE = "<script>alert(\"x\")</script> & '引號' {{ student }}"
PDF = b"%PDF-1.4"
ENOUGH = 'for last; do case $last in --print-to-pdf=*) printf "%%PDF-1.4" > "${last#*=}";; esac; done'


def rows(*trained: str) -> list[dict[str, object]]:
    return [
        {
            "id": number,
            "prompt": f"測試題{number}？",
            "response_from_original_model": f"原本{number}。",
            "response_from_trained_model": text,
        }
        for number, text in enumerate(trained, start=1)
    ]


def write(folder: Path, *trained: str, **overrides: object) -> Path:
    """Write what a run leaves behind: parameters, answers, and DVC's note of the parameters."""
    values = compose("miniature", {key.replace("__", "."): value for key, value in overrides.items()})
    (folder / RESPONSES).parent.mkdir(parents=True)
    (folder / RESPONSES).write_text(json.dumps(rows(*trained)), encoding="utf-8")
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    made = {key: value for key, value in values.items() if key != "hub"}
    lock = {"stages": {"report": {"params": {"params.yaml": made}}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    return folder


def shown(markup: str) -> str:
    """Return what a reader sees of a page."""
    return unescape(re.sub(r"<[^>]+>", " ", markup.partition("<body>")[2]))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write(tmp_path / "course-1", "真人版更好。", HOSTILE, "")


@pytest.fixture
def chromium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that a test writes, and the only browser that there is."""
    program = tmp_path / "bin" / "chromium"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_every_prompt_and_both_answers_are_shown_in_order_under_the_courses_names(made):
    text = shown(page("b09901000", [part(made)]))
    fields = ["id", "prompt", "response_from_original_model", "response_from_trained_model"]
    answers = [str(value) for row in rows("真人版更好。", HOSTILE) for value in row.values()]
    wanted = re.escape("\0".join([*fields, *answers])).replace("\0", r"\s+")
    assert re.search(wanted, text)


def test_the_settings_are_those_of_params_yaml():
    found = {setting.name: setting.value for setting in settings(Params.load(PROFILES / "breeze-7b.yaml"))}
    values = read_yaml(PROFILES / "breeze-7b.yaml")
    assert found == {
        "num_epoch": "3",
        "data_size": "50",
        "support_ratio": "1",
        "beta": "0.1",
        "learning_rate": "0.0002",
        "r": "64",
        "lora_alpha": "16",
        "system_prompt": values["model"]["system_prompt"],
        "base": "MediaTek-Research/Breeze-7B-Instruct-v0_1 (main)",
        "dataset": f"{values['dataset']['url']} ({values['dataset']['commit']})",
    }


def test_the_settings_and_the_student_are_on_the_page(made):
    found, text = part(made), shown(page("b09901000", [part(made)]))
    assert all(re.search(rf"{name}\s+{meaning}\s+{re.escape(value)}", text) for name, meaning, value in found.settings)
    assert "b09901000" in text


def test_a_miniature_is_said_to_be_no_language_model(made):
    assert "並非語言模型" in shown(page("b09901000", [part(made)]))


def test_several_runs_come_in_the_order_given_each_with_its_own_settings(tmp_path):
    one = write(tmp_path / "one", "甲。", pairs__support_ratio=0.25)
    other = write(tmp_path / "other", "乙。", pairs__support_ratio=0.75)
    first, second = shown(page("b09901000", [part(other), part(one)])).split("第 2 組")
    assert "乙。" in first
    assert "support_ratio 0.75" in first
    assert "甲。" in second
    assert "support_ratio 0.25" in second


def test_text_of_models_is_never_markup_and_nothing_is_fetched(made):
    markup = page("b09901000", [part(made)])
    assert HOSTILE in shown(markup)
    assert "<script" not in markup
    assert re.findall(r'(?:src|href)="([^"]*)"', markup) == ["data:,"]
    assert not re.search(r"@import|url\(", markup)


def test_a_run_without_answers_is_told_to_make_them(made):
    (made / RESPONSES).unlink()
    with pytest.raises(InputError, match="responses.json does not exist; run `make repro` first"):
        part(made)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "the file: invalid json"),
        (b"", "the file: invalid json"),
        (b"{}", "the file: input should be a valid array"),
        (b"[]", "the file: list should have at least 1 item"),
        (b'[{"id": 1, "prompt": "?", "response": "."}]', "0.response_from_original_model: field required"),
        (json.dumps(rows("a") + [{**rows("b")[0], "prompt": None}]).encode(), "1.prompt: input should be a valid str"),
        (json.dumps([{**rows("b")[0], "id": "1"}]).encode(), "0.id: input should be a valid integer"),
    ],
)
def test_answers_in_another_format_are_refused_by_row(made, content, problem):
    (made / RESPONSES).write_bytes(content)
    expected = "expected a list of rows with id, prompt, response_from_original_model, response_from_trained_model"
    with pytest.raises(InputError, match=f"responses.json: {problem}.*; {expected}: `make repro`"):
        part(made)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="there is no folder .*nowhere; expected a run's workspace"):
        part(tmp_path / "nowhere")


def test_parameters_that_did_not_make_the_answers_are_refused(made):
    values = read_yaml(made / "params.yaml")
    values["train"]["num_epoch"] = 1
    (made / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(InputError, match=r"params.yaml did not make the answers there \(train\); run `make repro`"):
        part(made)


def test_a_run_that_has_not_ended_is_refused(made):
    (made / "dvc.lock").write_text("stages: {train: {}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"did not make the answers there \(no report yet\); run `make repro`"):
        part(made)


def test_the_report_is_the_last_stage_and_takes_every_setting():
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert list(stages)[-1] == "report"
    assert {"pairs", "train", "model", "base", "dataset"} <= set(stages["report"]["params"])


def test_two_files_copied_from_a_run_are_enough(made):
    (made / "dvc.lock").unlink()
    assert len(part(made).responses) == 3


@pytest.mark.parametrize("student", ["", "../b09901000", "b 09901000", "b09901000\n", "學號", "a.b"])
def test_a_student_that_is_no_file_name_is_refused(made, tmp_path, student, chromium):
    chromium.write_text(f"#!/bin/sh\n{ENOUGH}\n")
    with pytest.raises(InputError, match="cannot name a file; use letters, digits, - and _"):
        answer_sheet(student, [made], tmp_path / "out.pdf")
    assert not (tmp_path / "out.pdf").exists()


def test_the_browser_prints_the_page_from_a_file_and_leaves_only_the_pdf(made, tmp_path, chromium):
    chromium.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/said"\n{ENOUGH}\n')
    out = tmp_path / "out" / "b09901000.pdf"
    out.parent.mkdir()
    answer_sheet("b09901000", [made], out)
    said = (tmp_path / "said").read_text().splitlines()
    assert {"--headless", "--no-sandbox", "--no-pdf-header-footer"} <= set(said)
    assert re.fullmatch(r"file:///.*/sheet\.html", said[-1])
    assert out.read_bytes() == PDF
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_a_browser_is_found_under_any_of_its_names(chromium, name):
    other = chromium.rename(chromium.with_name(name))
    assert module.browser() == str(other)


def test_without_a_browser_it_says_what_to_install(made, tmp_path, chromium):
    chromium.unlink()
    with pytest.raises(
        InputError, match="no browser was found .tried: chromium, chromium-browser, google-chrome.; inst"
    ):
        answer_sheet("b09901000", [made], tmp_path / "out.pdf")


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (
            "echo first; echo 'no memory' >&2; exit 3",
            "printed no PDF: its exit code is 3, and its last line is: no memory; try whether",
        ),
        ("exit 0", "printed no PDF: its exit code is 0, and its last line is: nothing; try whether"),
        (f"{ENOUGH}; exit 1", "printed no PDF: its exit code is 1"),
        ("exec /bin/sleep 60", "printed no PDF within 2 s"),
    ],
)
def test_a_browser_that_fails_leaves_the_old_pdf_as_it_was(tmp_path, chromium, monkeypatch, script, problem):
    monkeypatch.setattr(module, "TIMEOUT", 2)
    chromium.write_text(f"#!/bin/sh\n{script}\n")
    out = tmp_path / "out" / "b09901000.pdf"
    out.parent.mkdir()
    out.write_bytes(b"old")
    with pytest.raises(InputError, match=problem):
        print_pdf("<p>", out)
    assert out.read_bytes() == b"old"
    assert list(out.parent.iterdir()) == [out]


def test_without_a_folder_it_is_this_tree(made, chromium, monkeypatch, capsys):
    chromium.write_text(f"#!/bin/sh\n{ENOUGH}\n")
    monkeypatch.chdir(made)
    monkeypatch.setattr("sys.argv", ["pdf", "b09901000"])
    main()
    assert capsys.readouterr().out == "The answer sheet: b09901000.pdf\n"
    assert (made / "b09901000.pdf").read_bytes() == PDF


def test_a_student_is_asked_for(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pdf"])
    with pytest.raises(InputError, match="name the student, for example `make pdf STUDENT=b09901000`"):
        main()


def test_git_sees_no_pdf(tmp_path, git):
    git(tmp_path, "init", "--quiet")
    shutil.copy(".gitignore", tmp_path)
    assert git(tmp_path, "check-ignore", "--no-index", "b09901000.pdf") == "b09901000.pdf"
