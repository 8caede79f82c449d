"""Files of other projects become data sets: each form with rows as its project writes them, in our own words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stance.config.params import Params
from stance.config.profiles import PROFILES
from stance.data.forms import LeftOut, conversation, map_prompts, map_rows
from stance.data.lint import lint
from stance.data.pairs import pair
from stance.data.questions import LABELLED, TEST, read_both
from stance.data.starting import SIZES, fitting_sizes, system_prompt_for, template, with_values
from stance.errors import InputError

QUESTION, GOOD, BAD = "Is the tram better than the bus?", "The tram is faster.", "The bus stops closer."
ROOT = Path(__file__).parents[3]


def said(role, text):
    return {"role": role, "content": text}


WHOLE = {side: [said("user", QUESTION), said("assistant", text)] for side, text in (("c", GOOD), ("r", BAD))}
HH = "\n\nHuman: {}\n\nAssistant: {}"
ROWS = {
    "TRL, explicit prompt": {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
    "TRL, conversational": {
        "prompt": [said("system", "Be brief."), said("user", QUESTION)],
        "chosen": [said("assistant", GOOD)],
        "rejected": [said("assistant", BAD)],
    },
    "TRL, implicit prompt": {"chosen": WHOLE["c"], "rejected": WHOLE["r"]},
    "UltraFeedback, binary": {
        "prompt": QUESTION,
        "prompt_id": "f3a1",
        "chosen": WHOLE["c"],
        "rejected": WHOLE["r"],
        "score_chosen": 8.0,
        "score_rejected": 3.5,
        "messages": WHOLE["c"],
    },
    "UltraFeedback": {
        "source": "a list",
        "instruction": QUESTION,
        "completions": [
            {"model": "m", "response": BAD, "overall_score": 3.0},
            {"model": "o", "response": "Neither.", "overall_score": 5.0},
            {"model": "n", "response": GOOD, "overall_score": 8.5},
        ],
    },
    "HH-RLHF": {"chosen": HH.format(QUESTION, GOOD), "rejected": HH.format(QUESTION, BAD)},
    "Argilla 2": {
        "id": "r1",
        "status": "completed",
        "fields": {"instruction": QUESTION, "response1": BAD, "response2": GOOD},
        "suggestions": {"preference": {"value": "response1", "agent": "a model"}},
        "responses": {"preference": [{"value": "response2", "user_id": "u", "status": "submitted"}]},
    },
    "Argilla 2, only a suggestion": {
        "fields": {"prompt": QUESTION, "response1": GOOD, "response2": BAD},
        "suggestions": {"preference": {"value": "response1", "agent": "a model"}},
        "responses": {},
    },
    "Argilla 2, as a table": {
        "prompt": QUESTION,
        "response1": BAD,
        "response2": GOOD,
        "preference.responses": ["response2"],
        "preference.responses.users": ["u"],
        "preference.suggestion": "response1",
    },
    "Argilla 1": {
        "fields": {"prompt": QUESTION, "response-1": GOOD, "response-2": BAD},
        "responses": [
            {"user_id": "v", "status": "discarded", "values": {"preference": {"value": "response-2"}}},
            {
                "user_id": "u",
                "status": "submitted",
                "values": {
                    "preference": {"value": [{"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 2}]}
                },
            },
        ],
        "suggestions": [],
    },
    "Argilla, answers written": {
        "fields": {"question": QUESTION},
        "responses": {
            "support": [{"value": GOOD, "status": "submitted"}],
            "oppose": [{"value": BAD, "status": "submitted"}],
        },
    },
    "Label Studio": {
        "id": 1,
        "data": {"prompt": QUESTION, "answer1": BAD, "answer2": GOOD},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {
                "result": [
                    {
                        "from_name": "comparison",
                        "to_name": ["one", "two"],
                        "type": "pairwise",
                        "value": {"selected": "right"},
                    }
                ]
            },
        ],
    },
    "Label Studio, answers written": {
        "data": {"question": QUESTION},
        "annotations": [
            {
                "result": [
                    {"from_name": name, "to_name": "q", "type": "textarea", "value": {"text": [text]}}
                    for name, text in (("support", GOOD), ("oppose", BAD))
                ]
            }
        ],
    },
    "Label Studio, JSON-MIN": {"prompt": QUESTION, "answer1": GOOD, "answer2": BAD, "comparison": "left", "id": 4},
    "own names in other letters": {" Question": QUESTION, "Pro": GOOD, "CON": BAD, "Note": "x"},
    "own in Chinese": {"題目": QUESTION, "支持": GOOD, "反對": BAD},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_row_of_another_project_is_a_question_with_both_answers(row):
    (question,) = map_rows([row], "support", {}).questions
    assert (question.prompt, question.support, question.oppose) == (QUESTION, GOOD, BAD)


def test_rows_with_a_label_each_are_joined_by_their_question():
    rows = [
        {"prompt": QUESTION, "response": GOOD, "stance": "Support"},
        {"prompt": QUESTION, "response": BAD, "stance": "oppose"},
        {"prompt": QUESTION, "response": "It depends.", "stance": "neutral"},
        {"prompt": QUESTION, "response": "Hm.", "stance": "joking"},
        {"prompt": "Alone?", "response": "Yes.", "stance": "support"},
    ]
    mapped = map_rows(rows, "support", {})
    assert mapped.questions[0].neutral == "It depends."
    assert mapped.left_out == {
        "its label is none of support, oppose and neutral": 1,
        "its question has no answer of the other stance": 1,
    }


def test_trls_unpaired_preference_is_read():
    rows = [{"prompt": QUESTION, "completion": text, "label": text == GOOD} for text in (BAD, GOOD)]
    assert map_rows(rows, "support", {}).questions[0].support == GOOD


def test_the_preferred_answers_may_be_those_that_oppose():
    (question,) = map_rows([ROWS["HH-RLHF"]], "oppose", {}).questions
    assert (question.support, question.oppose) == (BAD, GOOD)


def test_a_row_that_is_no_question_is_left_out_and_counted():
    several = HH.format("Hello?", "Hi.") + HH.format(QUESTION, GOOD)
    rows = [
        ROWS["HH-RLHF"],
        ROWS["HH-RLHF"],
        {"chosen": several, "rejected": several},
        {"chosen": HH.format("Same?", "Yes."), "rejected": HH.format("Same?", "Yes.")},
        {"chosen": HH.format("Empty?", ""), "rejected": HH.format("Empty?", "No.")},
        "a text",
    ]
    mapped = map_rows(rows, "support", {})
    assert len(mapped.questions) == 1
    assert mapped.left_out == {
        "its question was there before, with an answer of this stance": 1,
        "it is a conversation of several turns": 1,
        "both answers are the same text": 1,
        "a question or an answer is missing": 1,
        "it is no object": 1,
    }


def test_a_tie_is_left_out():
    row = ROWS["Label Studio, JSON-MIN"]
    mapped = map_rows([row, row | {"prompt": "Other?", "comparison": "tie"}], "support", {})
    assert (len(mapped.questions), sum(mapped.left_out.values())) == (1, 1)


def test_columns_of_any_name_can_be_given():
    row = {"Frage": QUESTION, "dafür": GOOD, "dagegen": BAD}
    with pytest.raises(InputError, match="the columns dafür, dagegen, frage fit no form that can be read; name them"):
        map_rows([row], "support", {})
    columns = {"prompt": "Frage", "support": "dafür", "oppose": "dagegen"}
    assert map_rows([row], "support", columns).questions[0].support == GOOD


def test_test_prompts_need_no_answers():
    assert map_prompts([{"question": "A?"}, {"question": "A?"}, {"question": "B?"}, "C?"], {}) == ["A?", "B?", "C?"]
    with pytest.raises(InputError, match="has no questions"):
        map_prompts([{"id": 1}], {})


def test_answers_to_different_questions_are_no_pair():
    with pytest.raises(InputError, match="belong to different questions"):
        map_rows([{"chosen": HH.format("A?", "b"), "rejected": HH.format("C?", "d")}], "support", {})
    with pytest.raises(LeftOut):
        conversation("A?", [])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the profiles, and no data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / PROFILES).symlink_to(tmp_path / "own")
    (tmp_path / "own").mkdir()
    for path in (ROOT / PROFILES).glob("*.yaml"):
        (tmp_path / "own" / path.name).write_bytes(path.read_bytes())
    return tmp_path


def stance(*arguments):
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stance", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=variables, encoding="utf-8")


def test_import_makes_a_data_set_and_a_profile_that_fits_it(project):
    lines = [f"Is point {n} right?,{'Yes. ' * n}It is right.,No. It is wrong." for n in range(1, 31)]
    (project / "table.csv").write_text("\ufeffQuestion,Pro,Con\r\n" + "\r\n".join(lines), encoding="utf-8")
    done = stance("import", "table.csv", "points")
    assert (done.returncode, done.stderr) == (0, "")
    assert "24 questions and 6 test prompts" in done.stdout
    questions, prompts = read_both(Path("data/sources/points"))
    assert (len(questions), len(prompts), prompts[0].prompt) == (24, 6, "Is point 25 right?")
    params = Params.load(PROFILES / "points.yaml")
    assert params.dataset.path == Path("data/sources/points")
    assert (params.pairs.data_size, params.model.system_prompt) == (20, "Reply in fewer than 30 words.")
    assert params.answers.max_new_tokens == 100
    assert "# The data set points" in (PROFILES / "points.yaml").read_text(encoding="utf-8")


def test_import_overwrites_nothing(project):
    (project / "a.jsonl").write_text(json.dumps(ROWS["HH-RLHF"]), encoding="utf-8")
    (project / "data/sources/mine").mkdir(parents=True)
    for name, path in (("mine", "data/sources/mine"), ("miniature", "profiles/miniature.yaml")):
        done = stance("import", "a.jsonl", name)
        assert (done.returncode, done.stderr) == (
            1,
            f"error: {path} exists, and nothing is overwritten; choose another name, or type `python -m stance new "
            f"{name} --refit` to fit the sizes to data that you have edited\n",
        )
    assert list((project / "data/sources/mine").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["import", "none.csv", "a"], "none.csv does not exist"),
        (["import", "one.jsonl", "a"], "has 1 questions, of which 1 were to become test prompts"),
        (["import", "one.jsonl", "a", "--test-size", "-1"], "of which -1 were"),
        (["import", "one.jsonl", "../a"], "'../a' cannot name a data set"),
        (["import", "one.jsonl", "a", "--columns", "pro"], "'pro' names no column"),
        (["import", "one.jsonl", "a", "--test", "one.jsonl", "--profile", "none"], "there is no profile 'none'"),
        (["new", "-a"], "arguments are required"),
        (["new", "a", "--refit"], "profiles/a.yaml does not exist"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(project, arguments, problem):
    (project / "one.jsonl").write_text(json.dumps(ROWS["TRL, explicit prompt"]), encoding="utf-8")
    done = stance(*arguments)
    assert done.returncode in (1, 2)
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("language", "prompt", "profile"),
    [("en", "Reply in fewer than 20 words.", "smollm2-135m"), ("zh-Hant", "回覆請少於20字", "miniature")],
)
def test_new_writes_a_data_set_to_begin_with(project, language, prompt, profile):
    done = stance("new", "mine", "--language", language)
    assert (done.returncode, done.stderr) == (0, "")
    questions, prompts = read_both(Path("data/sources/mine"))
    assert (len(questions), len(prompts)) == (12, 4)
    assert all(row.neutral for row in questions)
    params = Params.load(PROFILES / "mine.yaml")
    assert (params.model.system_prompt, params.pairs.data_size) == (prompt, 10)
    assert params.dataset.probes is None
    usual = Params.load(PROFILES / f"{profile}.yaml")
    assert (params.base, params.train) == (usual.base, usual.train)


def test_refit_changes_the_sizes_and_nothing_else(project):
    stance("new", "mine")
    profile = PROFILES / "mine.yaml"
    text = profile.read_text(encoding="utf-8").replace("num_epoch: 3", "num_epoch: 2  # mine")
    profile.write_text(text, encoding="utf-8")
    Path("params.yaml").write_text(text, encoding="utf-8")
    labelled = Path("data/sources/mine") / LABELLED
    labelled.write_text(
        labelled.read_text(encoding="utf-8").replace("Productivity rises", "Rested " * 100), encoding="utf-8"
    )
    labelled.write_text(json.dumps(json.loads(labelled.read_bytes())[:6]), encoding="utf-8")
    done = stance("new", "mine", "--refit")
    assert (done.returncode, done.stderr) == (0, "")
    after = profile.read_text(encoding="utf-8")
    changed = [b for a, b in zip(text.splitlines(), after.splitlines(), strict=True) if a != b]
    assert changed == ["  data_size: 5", "  max_length: 768", "  max_new_tokens: 580"]
    assert Path("params.yaml").read_text(encoding="utf-8") == after


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_can_be_started_from(path):
    text = path.read_text(encoding="utf-8")
    values = dict.fromkeys(SIZES, 7) | {"model.system_prompt": "Say: 'yes' # or no"}
    parsed = yaml.safe_load(with_values(text, values))
    assert parsed["model"]["system_prompt"] == "Say: 'yes' # or no"
    assert (parsed["pairs"]["data_size"], parsed["train"]["max_length"]) == (7, 7)
    assert parsed["train"]["num_epoch"] == yaml.safe_load(text)["train"]["num_epoch"]


@pytest.mark.parametrize("language", ["en", "zh-Hant"])
def test_the_template_keeps_to_its_own_system_prompt(language):
    questions, prompts = template(language)
    limit = 20
    for row in questions:
        for text in (row.support, row.oppose, row.neutral):
            assert (len(text.split()) if language == "en" else len(text)) < limit
    assert str(limit) in system_prompt_for(questions)
    assert fitting_sizes(questions, prompts)["train.max_length"] == 512
    assert TEST.startswith("test")


@pytest.mark.parametrize("language", ["en", "zh-Hant"])
def test_nothing_is_wrong_with_the_template(language):
    questions, prompts = template(language)
    prompt = system_prompt_for(questions)
    assert lint([pair(row, None, support=True, system_prompt=prompt) for row in questions], prompts, prompt) == []


def test_new_speaks_the_language_of_its_data(project):
    english, chinese = stance("new", "mine").stdout, stance("new", "own", "--language", "zh-Hant").stdout
    assert "next: edit the two files" in english
    assert chinese.splitlines() == [
        "data/sources/own 裡有 labelled_data.json 與 test_prompt.json；profiles/own.yaml 是配合這份資料的參數",
        "系統提示：回覆請少於20字；其他參數與設定檔 miniature 相同",
        "接下來：編輯這兩個檔案，再依序執行 `.venv/bin/python -m stance new own --refit`、`make profile NAME=own`、"
        "`make preflight`、`make repro`",
    ]


def test_import_of_chinese_rows_speaks_chinese_and_says_what_it_left_out(project):
    rows = [{"題目": f"第{n}點對嗎？", "支持": f"對，第{n}點很好。", "反對": f"不，第{n}點不好。"} for n in range(12)]
    rows[0]["反對"] = ""
    (project / "table.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    done = stance("import", "table.jsonl", "points")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:3] == [
        "table.jsonl：題目附支持與反對的回答",
        "9 道訓練題與 2 道測試題",
        "略過 1 列（該題缺少另一個立場的回答）",
    ]
