"""The block at the end of `make repro`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stance.data.records import Gate, write_gates
from stance.errors import InputError
from stance.language.messages import message
from stance.machine.timing import read_seconds
from stance.pages.summary import lines, verdict
from tests.builders.finished_run import write_evaluation


def passed(name: str) -> Gate:
    """Return a gate that is passed."""
    figure, bound, advice = (message("problem", problem=text) for text in ("drift 0.002", "at most 0.05", "none"))
    return Gate(name=name, passed=True, figure=figure, bound=bound, advice=advice)


def missed(name: str) -> Gate:
    """Return a gate that is missed, with advice."""
    return Gate(
        name=name,
        passed=False,
        figure=message("changed", keys=["eos_token_id"]),
        bound=message("as_in_the_base"),
        advice=message("restore_tokenizer"),
    )


def test_all_gates_that_are_passed_are_one_word_and_a_missed_one_has_figure_and_advice():
    assert verdict([passed("a"), passed("b")]) == "all 2 gates passed"
    told = verdict([passed("a"), missed("fingerprint")])
    assert told.startswith("1 of 2 gates missed: fingerprint (eos_token_id changed; ")
    assert len(told) > len("1 of 2 gates missed: fingerprint (eos_token_id changed; )")


def test_a_gate_that_only_warns_is_told_apart_from_one_that_refuses():
    warns = missed("fingerprint").model_copy(update={"warning": True})
    told = verdict([passed("a"), warns])
    assert told == "1 of 2 gates only warn, so a release goes ahead: fingerprint; the report says why"
    both = verdict([missed("parity"), warns])
    assert both.startswith("1 of 2 gates missed: parity (")
    assert both.endswith(". 1 of 2 gates only warn: fingerprint; the report says why")


def test_the_block_holds_verdict_headline_pages_seconds_and_next_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_evaluation(tmp_path / "data/evaluation")
    write_gates(tmp_path / "data/evaluation/gates.json", [passed("fingerprint")])
    answer = {"id": 1, "prompt": "?", "response": "!", "tokens": 1, "finish_reason": "stop"}
    (tmp_path / "data/answers").mkdir()
    (tmp_path / "data/answers/aligned.jsonl").write_text(json.dumps(answer) + "\n")
    (tmp_path / "dvc.yaml").write_text("stages: {base: {cmd: a}, pairs: {cmd: b}, train: {cmd: c}}")
    seconds = tmp_path / ".dvc/tmp/seconds"
    seconds.mkdir(parents=True)
    for stage, text in (("train", "61.4"), ("base", "35.2")):
        (seconds / stage).write_text(text)
    block = dict(lines())
    assert list(block) == ["verdict", "before", "after", "report", "seconds", "next"]
    assert block["verdict"] == "all 1 gates passed"
    assert block["after"].endswith("on 1 unseen prompt")
    assert block["report"] == "data/made/index.html, data/made/index.zh-TW.html"
    assert block["seconds"] == "base 35, train 61"
    assert block["next"].count("make ") == 3
    assert block["next"].endswith("-m flows.release")


def test_an_unfinished_run_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="gates.json does not exist; expected a finished run"):
        lines()


@pytest.mark.parametrize("stage", ["answers_base", None])
def test_a_stage_that_dvc_starts_leaves_its_seconds_and_a_command_does_not(stage, tmp_path, monkeypatch):
    variables = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    variables |= {"PYTHONPATH": str(Path.cwd())} | ({"DVC_STAGE": stage} if stage else {})
    program = "import tasks, time; time.sleep(0.2)"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=variables, check=True)
    monkeypatch.chdir(tmp_path)
    seconds = read_seconds(["base", "answers_base"])
    assert list(seconds) == ([stage] if stage else [])
    assert all(0.2 <= taken < 60 for taken in seconds.values())
    assert (tmp_path / ".dvc").exists() == bool(stage)
