"""The linter's findings stand in the pre-flight, before the base model has answered for minutes."""

from pathlib import Path

from stance.config.params import Params
from stance.config.profiles import compose
from stance.data.questions import read_prompts, read_questions
from stance.preflight.checks import lint_rows

FOLDER = Path("data/sources/working_from_home")
PARAMS = Params.parse(compose("smollm2-135m"), "test")


def test_an_answer_that_is_too_long_is_a_warning_with_its_id():
    questions, prompts = read_questions(FOLDER), read_prompts(FOLDER)
    assert [row.verdict for row in lint_rows(PARAMS, questions, [], prompts)] == ["ok"]
    wordy = questions[3].model_copy(update={"oppose": "word " * 36})
    [row] = lint_rows(PARAMS, [*questions[:3], wordy, *questions[4:]], [], prompts)
    assert (row.check, row.verdict, row.expected) == ("data", "warning", f"ids {wordy.id}")
    assert row.found.startswith(f"limit: 1 of {2 * len(questions)} answers")
