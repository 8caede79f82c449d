"""The prompts that show side effects: their schema, how answers are checked, and our own files of them."""

import json
from collections import Counter
from pathlib import Path

import pytest

from stance.config.params import Params
from stance.config.profiles import PROFILES, compose
from stance.data.answers import Answer
from stance.data.pairs import retained_pairs, training_pairs
from stance.data.questions import Prompt, Question, read_probes, read_prompts, read_questions
from stance.data.side_effects import GENERAL, SideProbe, holds, read_if_any, read_side_folder, require_unasked
from stance.errors import InputError
from stance.evaluation.defects import is_whole
from tests.unit.data.test_pairs import options

SOURCES = Path("data/sources/side_effects")
LANGUAGES = sorted(path.name for path in SOURCES.iterdir())
FACT = {"id": 1, "kind": "everyday", "prompt": "What is the capital of France?", "accept": ["Paris"]}


def everyday(**check: object) -> SideProbe:
    return SideProbe.model_validate({"id": 1, "kind": "everyday", "prompt": "?"} | check)


def asked(language: str) -> list[SideProbe]:
    """Return our prompts in a language, with those of every topic."""
    names = {path.stem for path in (SOURCES / language).glob("*.jsonl")} - {*GENERAL, "retained"}
    rows = {row.id: row for name in names for row in read_side_folder(SOURCES / language, name)}
    return list(rows.values())


@pytest.mark.parametrize(
    ("response", "text", "is_held"),
    [
        ("It is Paris.", "paris", True),
        ("The Parisian way.", "Paris", False),
        ("12 months", "2", False),
        ("1 + 1 = 2", "2", True),
        ("是巴黎市。", "巴黎", True),
        ("有12個月", "12", True),
        ("有12個月", "2", False),
    ],
)
def test_an_accepted_text_counts_as_whole_words(response, text, is_held):
    assert holds(response, text) == is_held


def test_any_accepted_text_a_pattern_or_an_object_makes_an_answer_right():
    assert everyday(accept=["seven", "7"]).is_right("There are Seven.")
    assert everyday(pattern=r"^\W*yes\b").is_right("yes, it is")
    assert not everyday(pattern=r"^\W*yes\b").is_right("no, yes")
    assert everyday(format="json").is_right('Here: {"city": "Paris"}.')
    assert not everyday(format="json").is_right("[1, 2]")
    assert not everyday(format="json").is_right('{"city": ')


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (FACT | {"accept": []}, "needs one of accept, pattern and format"),
        (FACT | {"pattern": "x"}, "needs one of accept, pattern and format"),
        (FACT | {"kind": "careful"}, "no other kind has one"),
        ({"id": 1, "kind": "opinion", "prompt": "?"}, "kind opinion needs topic"),
        ({"id": 1, "kind": "turns", "prompt": "?", "earlier": ["?"]}, "earlier needs an answer to every question"),
        ({"id": 1, "kind": "text", "prompt": "?"}, "kind text needs answer"),
        ({"id": 1, "kind": "everyday", "prompt": "?", "pattern": "("}, "no regular expression"),
    ],
)
def test_a_row_without_what_its_kind_needs_is_refused(tmp_path, row, problem):
    (tmp_path / "everyday.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=problem):
        read_side_folder(tmp_path, "topic")


def test_two_files_may_not_share_an_id(tmp_path):
    for name in ("everyday.jsonl", "topic.jsonl"):
        (tmp_path / name).write_text(json.dumps(FACT) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"topic\.jsonl: id 1 is already an id in .*everyday\.jsonl"):
        read_side_folder(tmp_path, "topic")


def test_of_the_topics_only_the_one_of_the_data_set_is_asked(tmp_path):
    for number, name in enumerate(("everyday", "one", "other"), start=1):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(FACT | {"id": number}) + "\n", encoding="utf-8")
    assert [row.id for row in read_side_folder(tmp_path, "one")] == [1, 2]
    assert [row.id for row in read_side_folder(tmp_path, "nothing")] == [1]


def test_a_folder_without_prompts_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds none of everyday\.jsonl"):
        read_side_folder(tmp_path, "one")


def test_the_turns_before_a_prompt_stand_before_it():
    probe = SideProbe.model_validate({"id": 1, "kind": "turns", "prompt": "C?", "earlier": ["A?", "B."]})
    assert [(turn["role"], turn["content"]) for turn in probe.messages("Be brief.")] == [
        ("system", "Be brief."),
        ("user", "A?"),
        ("assistant", "B."),
        ("user", "C?"),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_our_prompts_are_as_many_as_a_verdict_needs(language):
    rows = asked(language)
    kinds = Counter(row.kind for row in rows)
    assert kinds["everyday"] >= 100
    assert kinds["careful"] >= 20
    assert sorted(Counter(row.topic for row in rows if row.kind == "opinion").values()) == [5] * 10
    assert all(kinds[kind] for kind in ("task", "translated", "turns", "text"))
    assert any(row.sampled for row in rows)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_prompt_is_retained_and_asked(language):
    """Retained prompts are trained on, so that an answer to them would show nothing."""
    others = {row.prompt.casefold() for row in asked(language)}
    for path in Path("data/sources/probes").glob("*.json"):
        others |= {row.prompt.casefold() for row in read_probes(path)}
    for folder in (path.parent for path in Path("data/sources").glob("*/test_prompt.json")):
        others |= {row.prompt.casefold() for row in (*read_prompts(folder), *read_questions(folder))}
    retained = [row.prompt.casefold() for row in read_if_any(SOURCES / language / "retained.jsonl", Prompt)]
    assert len(retained) == len(set(retained)) >= 24
    assert others.isdisjoint(retained)


def test_a_prompt_that_is_retained_and_asked_is_refused():
    retained, question = Prompt(id=7, prompt="What is a volcano?"), Prompt(id=1, prompt="what is a Volcano?")
    require_unasked([retained], [])
    with pytest.raises(InputError, match=r"retained\.jsonl: the prompts with the ids 7 are also asked"):
        require_unasked([retained], [question])


@pytest.mark.parametrize("profile", sorted(path.stem for path in PROFILES.glob("*.yaml")))
def test_only_smollm2_is_asked_and_only_the_default_profile_retains(profile):
    params = Params.parse(compose(profile), profile)
    asks = profile.startswith("smollm2-135m")
    assert bool(params.dataset.side_effects) == bool(params.evaluate.side_effects) == asks
    assert bool(params.pairs.retained) == (profile == "smollm2-135m")


def test_retained_prompts_without_a_file_are_refused():
    with pytest.raises(InputError, match=r"pairs\.retained is 8, but dataset\.side_effects names no folder"):
        compose("miniature", {"pairs.retained": 8})


def test_prompts_without_bounds_are_refused():
    with pytest.raises(InputError, match=r"evaluate\.side_effects holds no bounds"):
        compose("smollm2-135m", {"evaluate.side_effects": None})


def answered(number: int, response: str = "Wien.", finish_reason: str = "stop") -> Answer:
    return Answer(id=number, prompt=f"Frage {number}?", response=response, tokens=2, finish_reason=finish_reason)


def test_a_retained_pair_prefers_the_models_own_answer_to_one_about_the_topic():
    questions = [Question(id=n, prompt=f"Good {n}?", support=f"Good {n}.", oppose=f"Bad {n}.") for n in range(1, 5)]
    trained = training_pairs(questions, options(4, "0.5"), "Be brief.", 42)
    pairs = retained_pairs([answered(1), answered(2)], trained, 2, "Be brief.")
    assert [(row.prompt[0].content, row.prompt[1].content) for row in pairs] == [
        ("Be brief.", "Frage 1?"),
        ("Be brief.", "Frage 2?"),
    ]
    assert [row.chosen[0].content for row in pairs] == ["Wien.", "Wien."]
    assert [row.rejected[0].content for row in pairs] == ["Good 1.", "Bad 3."]  # one of each side


def test_more_retained_prompts_than_whole_answers_are_refused():
    with pytest.raises(InputError, match=r"pairs\.retained is 3, and the base model gives 1 whole answers"):
        retained_pairs([answered(1)], [], 3, "Be brief.")


def test_an_answer_that_is_cut_off_empty_or_repeats_itself_is_not_whole():
    rows = [answered(1), answered(2, finish_reason="length"), answered(3, ""), answered(4, "ja ja ja ja ja ja ja")]
    assert [row.id for row in rows if is_whole(row)] == [1]
