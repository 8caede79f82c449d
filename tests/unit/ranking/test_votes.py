"""The command `votes`: figures, exports that other programs read, imports, and refusals in a sentence."""

import json
import logging
import sys
from pathlib import Path

import pytest

from stance.data.samples import SAMPLES, write_samples
from stance.data.votes import FILE, VOTES, append_vote, read_votes
from stance.errors import InputError
from stance.machine.files import read_json, read_jsonl
from stance.ranking.items import rankable, seed_of, shown
from stance.ranking.votes import main
from tests.builders.ranked import ranked_by_text, several, vote_on

ROWS = several(4)


def items(voter: str):
    return [shown(row, seed_of(voter, row.id, 0)) for row in rankable(ROWS)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with four questions, of which two people have ranked three."""
    (tmp_path / "params.yaml").symlink_to(Path("params.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    write_samples(SAMPLES, ROWS)
    for name in ("Wang", "Lin"):
        for item in items(name)[:3]:
            append_vote(VOTES / FILE, ranked_by_text(item, name, reason="clearer"))
    return tmp_path


def votes(monkeypatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["python -m stance votes", *arguments])
    main()


def test_show_prints_voters_agreement_and_pairs(monkeypatch, capsys):
    votes(monkeypatch, "show")
    shown_text = capsys.readouterr().out
    assert "Wang" in shown_text
    assert "people: kappa 1.00 (95 % interval 1.00 to 1.00) on 9 pairs of 3 questions" in shown_text
    assert "repeated questions: nothing to compare yet" in shown_text
    assert "18 pairs follow from 6 votes" in shown_text


def test_an_export_to_label_studio_is_imported_into_an_empty_folder(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    votes(monkeypatch, "export", "tasks.json", "--to", "label-studio")
    before = read_votes(VOTES / FILE)
    (VOTES / FILE).unlink()
    votes(monkeypatch, "import", "tasks.json")
    assert read_votes(VOTES / FILE) == before
    votes(monkeypatch, "import", "tasks.json")
    assert read_votes(VOTES / FILE) == before
    assert "0 votes imported, 6 were there already" in caplog.text
    assert len(read_json(Path("tasks.json"))) == 7


def test_exports_for_training_have_the_keys_that_trl_reads(monkeypatch):
    votes(monkeypatch, "export", "pairs.jsonl", "--to", "trl")
    votes(monkeypatch, "export", "kto.jsonl", "--to", "kto")
    pairs, kto = read_jsonl(Path("pairs.jsonl")), read_jsonl(Path("kto.jsonl"))
    assert (len(pairs), len(kto)) == (18, 12)
    assert {*pairs[0]} == {"prompt", "chosen", "rejected"}
    assert {*kto[0]} == {"prompt", "completion", "label"}


def test_revisions_are_exported_as_pairs(monkeypatch):
    from stance.ranking.revisions import FILE as REVISIONS

    row = {"prompt_id": 1, "draft": ROWS[0].answers[0].sha256, "critique": "weak", "revision": "better"}
    at = {"by": "base", "at": "2026-01-02T03:04:05Z"}
    (VOTES / REVISIONS).write_text(json.dumps(row | at) + "\n")
    votes(monkeypatch, "export", "pairs.jsonl", "--to", "trl")
    last = read_jsonl(Path("pairs.jsonl"))[-1]
    assert (last["chosen"][0]["content"], last["rejected"][0]["content"]) == ("better", ROWS[0].answers[0].text)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["import", "no.json"], "no.json"),
        (["import", "bad.json"], "bad.json is no JSON; expected Label Studio's export"),
        (["export", str(VOTES / FILE), "--to", "trl"], "is a file of this project; name another one"),
        (["revise", "--model", "base"], "base and people have ranked 0 questions in common; expected at least 20"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_changes_no_vote(monkeypatch, arguments, problem):
    before = (VOTES / FILE).read_bytes()
    Path("bad.json").write_text("{")
    with pytest.raises((InputError, FileNotFoundError), match=problem):
        votes(monkeypatch, *arguments)
    assert (VOTES / FILE).read_bytes() == before


def test_nothing_follows_from_ties(monkeypatch):
    (VOTES / FILE).unlink()
    append_vote(VOTES / FILE, vote_on(items("Wang")[0], [1, 1, 1], "Wang"))
    with pytest.raises(InputError, match="nothing follows from the 1 votes on these samples; rank more"):
        votes(monkeypatch, "export", "pairs.jsonl", "--to", "trl")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["import"], "import needs a file"),
        (["show", "file"], "show takes no file"),
        (["export", "file"], "export needs --to"),
        (["ask"], "ask needs --model NAME or --judge"),
        (["ask", "--model", "base", "--judge"], "ask needs --model NAME or --judge"),
        (["revise"], "revise needs --model NAME"),
        (["ask", "--judge", "--min-kappa", "2"], "expected --min-kappa between -1 and 1"),
    ],
)
def test_a_command_line_that_lacks_something_is_refused(monkeypatch, capsys, arguments, problem):
    with pytest.raises(SystemExit):
        votes(monkeypatch, *arguments)
    assert problem in capsys.readouterr().err
