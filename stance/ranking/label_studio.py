"""Votes as Label Studio's JSON, and back.

A task holds a question and its answers in the order shown (`data.items`, each with `id` and `body`). An annotation
holds the result of a `Ranker`: a list of ids, the best first; or buckets named 1, 2, 3, in which answers of one bucket
are a tie. The reason is the result of a `TextArea`, and "all bad" that of `Choices`. A vote by a model is a prediction,
as Label Studio calls it. docs/ranking.md has the labelling interface. Format: labelstud.io/tags/ranker and
labelstud.io/guide/task_format.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from stance.data.samples import Samples, answer_hash
from stance.data.votes import Vote
from stance.errors import InputError
from stance.machine.files import first_problem

ALL_BAD = "all bad"
UNRANKED = "_"
"""The name that Label Studio gives to the list of items that are in no bucket."""


class ListItem(BaseModel):
    """An answer in a task."""

    id: str
    body: str = ""


class TaskData(BaseModel):
    """A question and its answers in the order shown."""

    prompt: str = ""
    prompt_id: int | None = None
    seed: int = 0
    items: list[ListItem] = Field(min_length=1)


class Annotation(BaseModel):
    """What one person says about a task."""

    result: list[dict[str, Any]] = []
    was_cancelled: bool = False
    completed_by: int | dict[str, Any] | str | None = None
    created_at: AwareDatetime
    lead_time: float | None = None


class Prediction(BaseModel):
    """What a model says about a task."""

    result: list[dict[str, Any]] = []
    model_version: str = "Label Studio's model"
    created_at: AwareDatetime


class Task(BaseModel):
    """A task as Label Studio exports it; other keys are passed over."""

    model_config = ConfigDict(extra="ignore")

    data: TaskData
    annotations: list[Annotation] = []
    predictions: list[Prediction] = []


def exported(votes: Iterable[Vote], samples: Sequence[Samples]) -> list[dict[str, Any]]:
    """Return one task per vote, and one without an annotation for each question that no person has ranked."""
    votes = list(votes)
    by_id = {row.id: row for row in samples}
    by_people = {vote.prompt_id for vote in votes if not vote.is_model}
    tasks = [
        _task(by_id[vote.prompt_id], vote.answers, vote.seed)
        | ({"predictions": [_prediction(vote)]} if vote.is_model else {"annotations": [_annotation(vote)]})
        for vote in votes
    ]
    waiting = [row for row in samples if row.id not in by_people and len(row.answers) > 1]
    return tasks + [_task(row, list(row.texts()), 0) for row in waiting]


def _task(row: Samples, answers: Sequence[str], seed: int) -> dict[str, Any]:
    texts = row.texts()
    items = [{"id": answer, "title": "", "body": texts[answer]} for answer in answers]
    data = {"prompt_id": row.id, "prompt": row.prompt, "seed": seed, "items": items}
    return {"data": data, "annotations": [], "predictions": []}


def _prediction(vote: Vote) -> dict[str, Any]:
    return {"model_version": vote.by, "created_at": vote.at.isoformat(), "result": _result(vote)}


def _annotation(vote: Vote) -> dict[str, Any]:
    return {
        "completed_by": {"email": vote.by},
        "created_at": vote.at.isoformat(),
        "lead_time": vote.seconds,
        "was_cancelled": vote.skipped,
        "result": [] if vote.skipped else _result(vote),
    }


def _result(vote: Vote) -> list[dict[str, Any]]:
    buckets: dict[str, list[str]] = {}
    for rank, answer in sorted(zip(vote.ranks, vote.answers, strict=True)):
        buckets.setdefault(str(rank), []).append(answer)
    results = [{"from_name": "rank", "to_name": "answers", "type": "ranker", "value": {"ranker": buckets}}]
    if vote.all_bad:
        value = {"choices": [ALL_BAD]}
        results.append({"from_name": "verdict", "to_name": "answers", "type": "choices", "value": value})
    if vote.reason:
        text = {"text": [vote.reason]}
        results.append({"from_name": "reason", "to_name": "answers", "type": "textarea", "value": text})
    return results


def imported(tasks: Any, samples: Sequence[Samples], where: str) -> list[Vote]:
    """Return the votes in an export of Label Studio.

    Args:
        tasks: The content of the file.
        samples: The answers that the votes are about. An answer is recognised by its hash as the id, or by its text.
        where: The file, for an error.

    Raises:
        InputError: The file has another format, or a task ranks an answer that is not among the samples; names it.
    """
    if not isinstance(tasks, list):
        raise InputError(f"{where} is no list of tasks; expected Label Studio's export in the format JSON")
    return [
        vote
        for number, row in enumerate(tasks, start=1)
        for vote in _votes_of(_parsed(row, f"{where}, task {number}"), samples, f"{where}, task {number}")
    ]


def _parsed(row: Any, where: str) -> Task:
    try:
        return Task.model_validate(row)
    except ValidationError as error:
        problem = first_problem(error, "the task")
        raise InputError(f"{where}: {problem}; expected Label Studio's export in the format JSON") from None


def _votes_of(task: Task, samples: Sequence[Samples], where: str) -> Iterator[Vote]:
    if not task.annotations and not task.predictions:
        return
    row = _question(task, samples, where)
    hashes = {item.id: _known_hash(item, row, where) for item in task.data.items}
    shown = {"prompt_id": row.id, "answers": list(hashes.values()), "seed": task.data.seed}
    for annotation in task.annotations:
        skipped = annotation.was_cancelled
        ranked = {} if skipped else _ranking(annotation.result, list(hashes), where)
        who = {"by": _name(annotation.completed_by), "at": annotation.created_at, "seconds": annotation.lead_time}
        yield _vote(shown | ranked | who | {"skipped": skipped}, where)
    for prediction in task.predictions:
        who = {"by": prediction.model_version, "at": prediction.created_at, "is_model": True}
        yield _vote(shown | _ranking(prediction.result, list(hashes), where) | who, where)


def _vote(values: dict[str, Any], where: str) -> Vote:
    try:
        return Vote.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error, 'the vote')}; correct or remove the task") from None


def _ranking(result: Sequence[Mapping[str, Any]], ids: Sequence[str], where: str) -> dict[str, Any]:
    """Return the ranks of the items, the reason, and whether all are bad."""
    return {
        "ranks": _ranks(result, ids, where),
        "reason": " ".join(" ".join(_values(result, "textarea", "text")).split()),
        "all_bad": ALL_BAD in _values(result, "choices", "choices"),
    }


def _question(task: Task, samples: Sequence[Samples], where: str) -> Samples:
    """Return the question of a task: the one with its id, or the one with its text."""
    ident, prompt = task.data.prompt_id, task.data.prompt
    rows = [row for row in samples if (row.id == ident if ident is not None else row.prompt == prompt)]
    if not rows:
        name = f"question {ident}" if ident is not None else f"the question {prompt!r}"
        raise InputError(f"{where} is about {name}, which has no samples; bring back the samples that were ranked")
    return rows[0]


def _known_hash(item: ListItem, row: Samples, where: str) -> str:
    texts = row.texts()
    for answer in (item.id, answer_hash(item.body)):
        if answer in texts:
            return answer
    raise InputError(
        f"{where} ranks the answer {item.body[:40] or item.id!r}, which is not among the samples of question {row.id}; "
        "bring back the samples that were ranked"
    )


def _ranks(result: Sequence[Mapping[str, Any]], ids: Sequence[str], where: str) -> list[int]:
    """Return the rank of each item. An item in no bucket shares the last rank."""
    rankers = [row.get("value", {}).get("ranker") for row in result if row.get("type") == "ranker"]
    ranker = rankers[0] if len(rankers) == 1 else None
    if not isinstance(ranker, dict) or not ranker or not all(isinstance(group, list) for group in ranker.values()):
        raise InputError(f"{where} has no result of a Ranker; expected one that is named rank as in docs/ranking.md")
    groups = _groups({str(name): list(members) for name, members in ranker.items()}, where)
    rank = {ident: number for number, group in enumerate(groups, start=1) for ident in group}
    if unknown := [ident for ident in rank if ident not in ids]:
        raise InputError(f"{where} ranks the item {unknown[0]!r}, which is not in its list; correct or remove the task")
    last = len(groups) + (len(rank) < len(ids))
    return [rank.get(ident, last) for ident in ids]


def _groups(ranker: Mapping[str, list[str]], where: str) -> list[list[str]]:
    """Return the items in groups, the best first: the items of a list, or the buckets by their number."""
    buckets = {name: members for name, members in ranker.items() if name != UNRANKED}
    if all(name.isdecimal() for name in buckets):
        return [buckets[name] for name in sorted(buckets, key=int) if buckets[name]]
    if len(buckets) == 1:
        return [[ident] for members in buckets.values() for ident in members]
    name = next(name for name in buckets if not name.isdecimal())
    raise InputError(f"{where} has a bucket named {name!r}; expected buckets named 1, 2, 3 and so on, the best first")


def _values(result: Sequence[Mapping[str, Any]], kind: str, key: str) -> list[str]:
    values = [row.get("value", {}).get(key, []) for row in result if row.get("type") == kind]
    return [str(text) for value in values for text in ([value] if isinstance(value, str) else value)]


def _name(completed_by: int | dict[str, Any] | str | None) -> str:
    if isinstance(completed_by, dict):
        names = (completed_by.get(key) for key in ("email", "username", "first_name", "id"))
        return str(next((name for name in names if name), "Label Studio"))
    return completed_by if isinstance(completed_by, str) and completed_by else f"Label Studio {completed_by or 1}"
