"""The forms in which other projects keep questions with two answers, mapped to the schema of `stance.data.questions`.

In: rows as `stance.data.tables` reads them. Out: questions, test prompts, and the number of rows that were left out, by
reason. `FORMS` lists the forms. A form is told by the columns of a row; other names of columns can be given.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stance.data.questions import Question, Stance
from stance.errors import InputError
from stance.language.translation import N_

Columns = dict[str, Any]
ONE = ("response_1", "response1", "answer_1", "answer1", "response_a", "answer_a", "generation_1", "text1", "left")
TWO = ("response_2", "response2", "answer_2", "answer2", "response_b", "answer_b", "generation_2", "text2", "right")
"""Names of two answers that were compared."""
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query", "input", "題目", "問題"),
    "support": ("support", "pro", "agree", "支持", "贊成"),
    "oppose": ("oppose", "con", "against", "disagree", "反對"),
    "neutral": ("neutral", "中立"),
    "chosen": ("chosen", "chosen_response", "preferred", "accepted"),
    "rejected": ("rejected", "rejected_response", "non_preferred", "dispreferred"),
    "first": ONE,
    "second": TWO,
    "verdict": ("preference", "comparison", "choice", "winner", "preferred_response", "better", "ranking", "label"),
    "answer": ("response", "answer", "completion", "text", "output"),
    "label": ("label", "stance", "sentiment", "preference"),
    "completions": ("completions",),
}
"""Names of columns, by what the column holds. Case, spaces and hyphens do not matter."""
LABELS: dict[str, Stance] = {
    **dict.fromkeys(("support", "pro", "agree", "favor", "for", "positive", "yes", "支持", "贊成"), "support"),
    **dict.fromkeys(("oppose", "con", "disagree", "against", "negative", "no", "反對"), "oppose"),
    **dict.fromkeys(("neutral", "none", "中立"), "neutral"),
}
FIRST, SECOND = frozenset({"first", "a", "1", *ONE}), frozenset({"second", "b", "2", *TWO})
"""What the column with the verdict may hold."""
OTHER: dict[Stance, Stance] = {"support": "oppose", "oppose": "support"}
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class LeftOut(Exception):
    """A row cannot become a question. The message is the reason, without the row."""


class Mapped(NamedTuple):
    """What the rows of a file have become."""

    form: str
    """The key in `FORMS`."""
    questions: list[Question]
    left_out: Counter[str]
    """The number of rows by the reason why they were left out."""


class Answers(NamedTuple):
    """A question with the answers that a row has."""

    prompt: str
    answers: dict[Stance, str]


def map_rows(rows: Sequence[Any], chosen: Stance, columns: Mapping[str, str]) -> Mapped:
    """Return the questions in rows of any form.

    Args:
        rows: Rows as `read_table` returns them.
        chosen: The stance of the preferred answers, in forms that have a preferred and a rejected one.
        columns: Names of columns in the file, by a key of `NAMES`.

    Raises:
        InputError: No form fits the columns, or no row has a question with both answers.
    """
    flat = [flattened(row) for row in rows if isinstance(row, dict)]
    present = {name for row in flat for name in row}
    form, read = form_of(present, columns)
    left_out = Counter({N_("it is no object"): len(rows) - len(flat)} if len(rows) > len(flat) else {})
    collected: dict[str, dict[Stance, str]] = {}
    for row in flat:
        try:
            _collect(collected, read(row, chosen, columns))
        except LeftOut as reason:
            left_out[str(reason)] += 1
    questions = _questions(collected, left_out)
    if not questions:
        reasons = "; ".join(f"{count} rows: {reason}" for reason, count in left_out.items())
        raise InputError(f"no row has a question with a supporting and an opposing answer ({reasons}); check the file")
    return Mapped(form, questions, left_out)


def map_prompts(rows: Sequence[Any], columns: Mapping[str, str]) -> list[str]:
    """Return the questions in rows that need no answers, each once.

    Raises:
        InputError: No row has a question.
    """
    found = [value_of(flattened(row), "prompt", columns) if isinstance(row, dict) else row for row in rows]
    prompts = list(dict.fromkeys(text for value in found if (text := text_of(value))))
    if not prompts:
        raise InputError(f"the test file has no questions; expected a column with one of the names {NAMES['prompt']}")
    return prompts


def form_of(present: Iterable[str], columns: Mapping[str, str]) -> "tuple[str, Form]":
    """Return the name of the form that columns have, and the function that reads its rows."""
    names = set(present)
    row = dict.fromkeys(names, "")
    for form, (needed, _, read) in FORMS.items():
        if all(_column(row, key, columns) in names for key in needed):
            return form, read
    raise InputError(
        f"the columns {', '.join(sorted(names)) or 'of the file'} fit no form that can be read; name them, for example "
        "`--columns prompt=QUESTION support=PRO oppose=CON` (docs/data.md lists the forms)"
    )


def normal(name: str) -> str:
    """Return the name of a column without differences of case, spaces and hyphens."""
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")


def flattened(row: Mapping[str, Any]) -> Columns:
    """Return the columns of a row; fields and answers of Argilla and Label Studio become columns of their own."""
    flat: Columns = {}
    for name, value in row.items():
        if name in ("fields", "data") and isinstance(value, dict):
            flat |= {normal(key): inner for key, inner in value.items()}
        elif name in ("annotations", "completions") and _is_label_studio(value):
            flat |= _of_label_studio(value)
        elif name in ("responses", "suggestions"):
            flat = _of_argilla(value) | flat if name == "suggestions" else flat | _of_argilla(value)
        elif str(name).endswith((".suggestion", ".responses")):
            base = normal(str(name).rpartition(".")[0])
            if (first := _first(value)) is not None and (base not in flat or str(name).endswith(".responses")):
                flat[base] = first
        elif normal(name) not in flat:
            flat[normal(name)] = _first(value) if _is_responses(value) else value
    return flat


def _is_label_studio(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(entry, dict) and "result" in entry for entry in value)


def _of_label_studio(annotations: Sequence[Mapping[str, Any]]) -> Columns:
    """Return the answers of the first annotation that was not cancelled, by the name of the control."""
    kept = [entry["result"] for entry in annotations if not entry.get("was_cancelled")]
    found: Columns = {}
    for result in kept[0] if kept else []:
        value = result.get("value", {})
        given = value.get(result.get("type")) or value.get("selected") or value.get("text") or value.get("choices")
        found[normal(result.get("from_name", ""))] = given[0] if isinstance(given, list) and given else given
    return found


def _of_argilla(value: Any) -> Columns:
    """Return the first submitted answer to each of Argilla's questions, in the format of version 1 or 2."""
    found: Columns = {}
    if isinstance(value, dict):
        found = {normal(name): _first(answers) for name, answers in value.items()}
    for entry in value if isinstance(value, list) else []:
        if "question_name" in entry:
            found[normal(entry["question_name"])] = entry.get("value")
        elif entry.get("status", "submitted") == "submitted":
            answers = entry.get("values") or {}
            found = {normal(name): _first(answer) for name, answer in answers.items()} | found
    return {name: answer for name, answer in found.items() if answer is not None}


def _is_responses(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "value" in v for v in value)


def _first(value: Any) -> Any:
    """Return the first submitted value among Argilla's answers to a question; a ranking gives its best option."""
    if isinstance(value, dict) and "value" in value:
        return _first(value["value"])
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        if all("rank" in entry for entry in value):
            best = [entry["value"] for entry in value if entry["rank"] == min(entry["rank"] for entry in value)]
            return best[0] if len(best) == 1 else "tie"
        return next((_first(e.get("value")) for e in value if e.get("status", "submitted") == "submitted"), None)
    return value[0] if isinstance(value, list) and value else value


def _column(row: Mapping[str, Any], key: str, columns: Mapping[str, str]) -> str | None:
    if key in columns:
        return normal(columns[key])
    return next((name for name in NAMES[key] if name in row), None)


def value_of(row: Mapping[str, Any], key: str, columns: Mapping[str, str]) -> Any:
    """Return the value in the column that holds `key`; None if there is no such column."""
    return row.get(_column(row, key, columns) or "")


def text_of(value: Any) -> str:
    """Return a value as text: a text, the content of a message, or that of the last message of a list."""
    if isinstance(value, list):
        return text_of(value[-1]) if value else ""
    if isinstance(value, dict):
        return text_of(value.get("content", value.get("value", value.get("text", ""))))
    return value.strip() if isinstance(value, str) else ""


def conversation(prompt: Any, answer: Any) -> tuple[str, str]:
    """Return the question and the answer of a conversation.

    The answer may hold the whole conversation, as a list of messages or as the text of HH-RLHF.

    Raises:
        LeftOut: The conversation has several turns, or there is no question or no answer.
    """
    turns = _turns(answer)
    if not any(role == "user" for role, _ in turns):
        turns = [*_turns(prompt, role="user"), *turns]
    turns = [(role, text) for role, text in turns if role != "system"]
    if len(turns) > 2:
        raise LeftOut(N_("it is a conversation of several turns"))
    if [role for role, _ in turns] != ["user", "assistant"] or not all(text for _, text in turns):
        raise LeftOut(N_("a question or an answer is missing"))
    return turns[0][1], turns[1][1]


def _turns(value: Any, role: str = "assistant") -> list[tuple[str, str]]:
    if isinstance(value, list):
        roles = {"human": "user", "gpt": "assistant"}
        return [
            (roles.get(name, name), text_of(entry))
            for entry in value
            if isinstance(entry, dict)
            for name in [str(entry.get("role", entry.get("from", role)))]
        ]
    if isinstance(value, str) and HUMAN.strip() in value and ASSISTANT.strip() in value:
        parts = f"\n\n{value.strip()}".replace(ASSISTANT, HUMAN + "\0").split(HUMAN)[1:]
        return [("assistant" if part.startswith("\0") else "user", part.removeprefix("\0").strip()) for part in parts]
    text = text_of(value)
    return [(role, text.removeprefix("Human:").removesuffix("Assistant:").strip())] if text else []


def _own(row: Columns, _: Stance, columns: Mapping[str, str]) -> Answers:
    texts = {side: text_of(value_of(row, side, columns)) for side in ("support", "oppose", "neutral")}
    return Answers(text_of(value_of(row, "prompt", columns)), {s: t for s, t in texts.items() if t})  # type: ignore[misc]


def _preference(row: Columns, chosen: Stance, columns: Mapping[str, str]) -> Answers:
    prompt = value_of(row, "prompt", columns)
    asked, better = conversation(prompt, value_of(row, "chosen", columns))
    asked_too, worse = conversation(prompt, value_of(row, "rejected", columns))
    if asked != asked_too:
        raise LeftOut(N_("the two answers belong to different questions"))
    return Answers(asked, {chosen: better, OTHER[chosen]: worse})


def _compared(row: Columns, chosen: Stance, columns: Mapping[str, str]) -> Answers:
    verdict = normal(text_of(value_of(row, "verdict", columns)) or str(value_of(row, "verdict", columns)))
    texts = {key: text_of(value_of(row, key, columns)) for key in ("first", "second")}
    firsts, seconds = (FIRST | {_column(row, "first", columns)}, SECOND | {_column(row, "second", columns)})
    if verdict not in firsts | seconds:
        raise LeftOut(N_("no answer of the two was preferred"))
    better, worse = ("first", "second") if verdict in firsts else ("second", "first")
    asked, answer = conversation(value_of(row, "prompt", columns), texts[better])
    return Answers(asked, {chosen: answer, OTHER[chosen]: conversation(asked, texts[worse])[1]})


def _scored(row: Columns, chosen: Stance, columns: Mapping[str, str]) -> Answers:
    """Read a row of UltraFeedback itself: the answers with the highest and with the lowest score."""
    scored = sorted((_score(entry), text_of(entry.get("response"))) for entry in row["completions"] or [])
    if len(scored) < 2 or scored[0][0] == scored[-1][0]:
        raise LeftOut(N_("no answer of the row is better than another"))
    return Answers(text_of(value_of(row, "prompt", columns)), {chosen: scored[-1][1], OTHER[chosen]: scored[0][1]})


def _score(completion: Mapping[str, Any]) -> float:
    for name in ("fine-grained_score", "overall_score", "score"):
        if isinstance(completion.get(name), int | float):
            return float(completion[name])
    ratings = [entry.get("Rating", "") for entry in (completion.get("annotations") or {}).values()]
    numbers = [float(rating) for rating in ratings if str(rating).replace(".", "", 1).isdigit()]
    return sum(numbers) / len(numbers) if numbers else 0.0


def _labelled(row: Columns, chosen: Stance, columns: Mapping[str, str]) -> Answers:
    label = value_of(row, "label", columns)
    if isinstance(label, bool | int | float):
        side: Stance | None = chosen if label > 0 else OTHER[chosen]
    else:
        word = normal(text_of(label))
        side = {"true": chosen, "1": chosen, "false": OTHER[chosen], "0": OTHER[chosen]}.get(word) or LABELS.get(word)
    if side is None:
        raise LeftOut(N_("its label is none of support, oppose and neutral"))
    asked, answer = conversation(value_of(row, "prompt", columns), value_of(row, "answer", columns))
    return Answers(asked, {side: answer})


def _collect(collected: dict[str, dict[Stance, str]], row: Answers) -> None:
    """Add a row to the answers of its question. The first answer of each stance stays."""
    if not row.prompt or not row.answers:
        raise LeftOut(N_("a question or an answer is missing"))
    answers = collected.setdefault(row.prompt, {})
    if row.answers.keys() & answers.keys():
        raise LeftOut(N_("its question was there before, with an answer of this stance"))
    answers |= row.answers


def _questions(collected: Mapping[str, Mapping[Stance, str]], left_out: Counter[str]) -> list[Question]:
    questions: list[Question] = []
    for prompt, answers in collected.items():
        if not {"support", "oppose"} <= answers.keys():
            left_out[N_("its question has no answer of the other stance")] += 1
        elif answers["support"] == answers["oppose"]:
            left_out[N_("both answers are the same text")] += 1
        else:
            questions.append(Question.model_validate({"id": len(questions) + 1, "prompt": prompt, **answers}))
    return questions


Form = Callable[[Columns, Stance, Mapping[str, str]], Answers]
FORMS: dict[str, tuple[tuple[str, ...], str, Form]] = {
    "own": (("prompt", "support", "oppose"), N_("a question with a supporting and an opposing answer"), _own),
    "preference": (
        ("chosen", "rejected"),
        N_("a preferred and a rejected answer: TRL, UltraFeedback, HH-RLHF"),
        _preference,
    ),
    "comparison": (
        ("prompt", "first", "second", "verdict"),
        N_("two answers, and which of them was preferred: Argilla, Label Studio"),
        _compared,
    ),
    "scores": (("prompt", "completions"), N_("answers with scores: UltraFeedback before it was made binary"), _scored),
    "labelled": (("prompt", "answer", "label"), N_("one answer a row, with its label"), _labelled),
}
"""For each form: the columns that it needs, its description, and the function that reads a row. The first that fits is
taken."""
