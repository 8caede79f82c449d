"""A record that stages exchange keeps the bytes of its file, and a file in another format is refused with advice."""

import json
from pathlib import Path
from typing import Any

import pytest

from stance.data.chat import Fingerprint
from stance.data.metrics import ClassifierAccuracy, Metrics
from stance.data.training import Parity, Watchdog
from stance.data.verdicts import (
    Opinion,
    read_probe_verdicts,
    read_prompt_verdicts,
    write_probe_verdicts,
    write_prompt_verdicts,
)
from stance.errors import InputError
from tests.builders.figures import FINGERPRINT, PARITY, figures

WATCHDOG = {"found": "loss is nan", "step": 3, "steps": 21}
OPINION = {"judge": "the base model", "problem": None, "base": ["neutral", None], "aligned": ["support", "oppose"]}
EARLY = WATCHDOG | {"early_stop": {"bound": 0.3, "measured": [{"step": 10, "drift": 0.2}], "kept": None}}
RECORDS = [
    (Watchdog, WATCHDOG),
    (Watchdog, EARLY),
    (Parity, PARITY),
    (Fingerprint, FINGERPRINT),
    (Metrics, figures()),
    (ClassifierAccuracy, figures()["classifier"]),
]

VERDICT = {"stance": "neutral", "score": -0.0125, "defects": ["hedged", "no_stance"]}
PROMPT = {"id": 1, "base": VERDICT, "aligned": VERDICT | {"stance": "support", "defects": []}}
ANSWER = {"response": "難說。", "stance": "neutral", "score": -0.0125}
PROBES = [
    {"id": 2, "prompt": "好嗎？", "kind": "paraphrase", "of": 1, "base": ANSWER, "aligned": ANSWER, "change": "same"},
    {"id": 3, "prompt": "幾度？", "kind": "unrelated", "base": ANSWER, "aligned": ANSWER, "change": "other"},
]
LISTS = [
    (read_prompt_verdicts, write_prompt_verdicts, [PROMPT]),
    (read_probe_verdicts, write_probe_verdicts, PROBES),
]
each_list = pytest.mark.parametrize(("read", "write", "content"), LISTS, ids=["stances", "probes"])
each_record = pytest.mark.parametrize(("record", "content"), RECORDS, ids=lambda value: getattr(value, "__name__", ""))


def written(folder: Path, content: object) -> Path:
    """Write a file as the stages of earlier commits did."""
    path = folder / "record.json"
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


@each_record
def test_a_record_is_written_with_the_bytes_that_it_was_read_from(record: Any, content: dict[str, Any], tmp_path: Path):
    path = written(tmp_path, content)
    record.read(path).write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@each_record
def test_an_empty_object_is_refused(record: Any, content: dict[str, Any], tmp_path: Path):
    first = next(iter(content))
    with pytest.raises(InputError, match=rf"record\.json .*\({first}: field required\).*run `dvc repro` again"):
        record.read(written(tmp_path, {}))


@each_record
def test_every_missing_key_is_named(record: Any, content: dict[str, Any], tmp_path: Path):
    for key in content.keys() - {"floor", "side_effects", "early_stop"}:  # the records of earlier versions have none
        rest = {name: value for name, value in content.items() if name != key}
        with pytest.raises(InputError, match=rf"record\.json .*\({key}: field required\).*run `dvc repro` again"):
            record.read(written(tmp_path, rest))


@each_record
def test_an_unknown_key_is_named(record: Any, content: dict[str, Any], tmp_path: Path):
    with pytest.raises(InputError, match=r"record\.json .*\(extra: extra inputs .*run `dvc repro` again"):
        record.read(written(tmp_path, content | {"extra": 1}))


@each_record
@pytest.mark.parametrize("content_of_file", ["", "{", "[]", "null"])
def test_what_is_no_object_is_refused(record: Any, content: object, content_of_file: str, tmp_path: Path):
    (tmp_path / "record.json").write_text(content_of_file, encoding="utf-8")
    with pytest.raises(InputError, match=r"record\.json .*\(the file: .*run `dvc repro` again"):
        record.read(tmp_path / "record.json")


@each_record
def test_a_missing_file_says_which_command_writes_it(record: Any, content: object, tmp_path: Path):
    with pytest.raises(InputError, match=r"record\.json does not exist; expected a finished run: `make repro` first"):
        record.read(tmp_path / "record.json")


def test_a_value_of_another_type_is_named_with_its_place(tmp_path: Path):
    drift = {"mean": 0.0, "worst": 0.0, "top_flips": 0, "tokens": "many"}
    with pytest.raises(InputError, match=r"\(candidates\.original\.tokens: input should be a valid integer"):
        Parity.read(written(tmp_path, PARITY | {"candidates": {"original": drift}}))
    with pytest.raises(InputError, match=r"\(aligned\.support: input should be a valid number"):
        Metrics.read(written(tmp_path, figures() | {"aligned": {"support": "all", "neutral": 0, "oppose": 0}}))


def test_a_figure_that_is_no_number_is_kept(tmp_path: Path):
    """A training that diverged is to miss its gates, and not to end in an error."""
    content = PARITY | {"mean": float("nan"), "worst": float("inf")}
    assert str(Parity.read(written(tmp_path, content)).mean) == "nan"


def test_a_training_that_came_to_its_end_has_no_reason(tmp_path: Path):
    record = Watchdog(reason=None, step=None, steps=21)
    record.write(tmp_path / "watchdog.json")
    assert json.loads((tmp_path / "watchdog.json").read_text()) == {"found": None, "step": None, "steps": 21}
    assert Watchdog.read(tmp_path / "watchdog.json") == record


def test_several_templates_of_a_tokenizer_are_kept_by_name(tmp_path: Path):
    content = FINGERPRINT | {"chat_template": {"default": "{{ messages }}", "tool_use": ""}, "bos_token_id": None}
    assert Fingerprint.read(written(tmp_path, content)).model_dump() == content


@pytest.mark.parametrize("content", [OPINION, {"judge": None, "problem": None}])
def test_an_opinion_is_written_with_the_bytes_that_it_was_read_from(content: dict[str, Any], tmp_path: Path):
    path = written(tmp_path, content)
    Opinion.read(path).write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "judge: field required"),
        ({"judge": None}, "problem: field required"),
        (OPINION | {"extra": 1}, "extra: extra inputs"),
        ({"judge": "a model", "problem": None}, "the file: a judge needs the stances of base and aligned"),
        (OPINION | {"aligned": ["maybe"]}, "aligned.0: input should be 'support', 'neutral' or 'oppose'"),
    ],
)
def test_an_opinion_in_another_format_is_refused(content: object, problem: str, tmp_path: Path):
    with pytest.raises(InputError, match=rf"record\.json .*\({problem}.*run `dvc repro` again"):
        Opinion.read(written(tmp_path, content))


@each_list
def test_verdicts_are_written_with_the_bytes_that_they_were_read_from(read, write, content, tmp_path: Path):
    path = written(tmp_path, content)
    write(tmp_path / "again.json", read(path))
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@each_list
def test_a_verdict_without_a_key_or_with_an_unknown_one_is_refused(read, write, content, tmp_path: Path):
    for key in content[-1]:
        rest = {name: value for name, value in content[-1].items() if name != key}
        with pytest.raises(InputError, match=rf"record\.json .*\({len(content) - 1}\.{key}: field required"):
            read(written(tmp_path, [*content[:-1], rest]))
    with pytest.raises(InputError, match=r"record\.json .*\(0\.extra: extra inputs .*run `dvc repro` again"):
        read(written(tmp_path, [content[0] | {"extra": 1}]))
    with pytest.raises(InputError, match=r"record\.json .*\(the file: input should be a valid (list|array)"):
        read(written(tmp_path, {}))


def test_a_parity_of_an_earlier_version_has_no_floor(tmp_path: Path):
    earlier = {key: value for key, value in PARITY.items() if key != "floor"}
    assert Parity.parse(json.dumps(earlier).encode(), tmp_path / "parity.json").floor is None
