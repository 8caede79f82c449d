"""The votes on sampled answers, `votes.jsonl`, and the pairs that follow from them.

A vote is one person's or one model's ranking of the answers to a question. The file is append-only: a vote is written
at once, and corrected by a later row of the same voter, question and seed. Answers are named by their hash
(`stance.data.samples`), in the order in which they were shown.

A ranking of K answers gives up to K(K-1)/2 pairs; tied answers give none. `scores.jsonl` holds scores of single answers
instead, for a reward model that is trained by regression.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from stance.config.section import Sha256
from stance.data.samples import Samples
from stance.errors import InputError
from stance.machine.files import first_problem

VOTES = Path("data/sources/votes")
FILE = "votes.jsonl"
FORMAT = ConfigDict(frozen=True, extra="forbid")


class Vote(BaseModel):
    """One ranking of the answers to a question."""

    model_config = FORMAT

    prompt_id: int
    """The id of the question."""
    answers: list[Sha256]
    """The hash of each answer, in the order in which the answers were shown. Shape (K,)."""
    ranks: list[int] = []
    """The rank of each answer in the order of `answers`: 1 is the best, equal ranks are a tie. Empty if skipped."""
    by: str = Field(min_length=1)
    """Who voted: a person's name, or the name of a model."""
    at: AwareDatetime
    """When, with the time zone."""
    seed: int
    """Seed of the order in which the answers were shown. A question that is shown again has another one."""
    reason: str = ""
    """Why, in one line."""
    all_bad: bool = False
    """Whether no answer is acceptable. Such a vote gives no pairs."""
    skipped: bool = False
    """Whether the voter did not want to decide. A skipped vote takes an earlier one back."""
    is_model: bool = False
    """Whether a model voted, and not a person."""
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Seconds from the moment when the answers were shown to the vote, if they were measured."""

    @model_validator(mode="after")
    def _ranks_its_answers(self) -> Self:
        count = len(self.answers)
        if count < 2:
            raise ValueError(f"a vote on {count} answer ranks nothing; expected at least 2 answers")
        if len(set(self.answers)) < count:
            raise ValueError("an answer is listed twice; list each answer once")
        if not self.skipped and len(self.ranks) != count:
            raise ValueError(f"there are {len(self.ranks)} ranks for {count} answers; give every answer one rank")
        if self.ranks and (min(self.ranks) != 1 or max(self.ranks) > count):
            raise ValueError(f"the ranks are {self.ranks}; expected 1 for the best answer and at most {count}")
        return self

    @property
    def is_tie(self) -> bool:
        """Whether all answers have the same rank."""
        return len(set(self.ranks)) < 2


class Score(BaseModel):
    """A score of one answer, for example 1 to 5; higher is better."""

    model_config = FORMAT

    prompt_id: int
    answer: Sha256
    score: float = Field(allow_inf_nan=False)
    by: str = Field(min_length=1)
    at: AwareDatetime


class RankedPair(NamedTuple):
    """A pair of answers of which one ranks higher."""

    chosen: str
    """The hash of the better answer."""
    rejected: str
    """The hash of the other one."""
    distance: int
    """Ranks between the two: 1 for neighbours. Tied answers share one rank."""


def ranked_pairs(vote: Vote) -> list[RankedPair]:
    """Return the pairs that follow from a vote: every two answers of different rank; none if all are bad."""
    if vote.skipped or vote.all_bad:
        return []
    levels = sorted(set(vote.ranks))
    level = {answer: levels.index(rank) for answer, rank in zip(vote.answers, vote.ranks, strict=True)}
    ordered = sorted(vote.answers, key=level.__getitem__)
    return [
        RankedPair(better, worse, level[worse] - level[better])
        for better, worse in combinations(ordered, 2)
        if level[better] < level[worse]
    ]


def latest(votes: Iterable[Vote]) -> list[Vote]:
    """Return the last vote of every voter on a question in one order, also if it is skipped."""
    return list({(vote.by, vote.prompt_id, vote.seed): vote for vote in votes}.values())


def current(votes: Iterable[Vote]) -> list[Vote]:
    """Return the votes that count: the latest ones that are not skipped.

    A model's vote on a question that a person has ranked does not count. It only measures how far the two agree.
    """
    counted = [vote for vote in latest(votes) if not vote.skipped]
    by_people = {vote.prompt_id for vote in counted if not vote.is_model}
    return [vote for vote in counted if not vote.is_model or vote.prompt_id not in by_people]


Row = TypeVar("Row", bound=BaseModel)


def append_vote(path: Path, row: BaseModel) -> None:
    """Add a row to a file, on disk when this returns. Several processes may do so at once.

    A half-written last row, which a machine that lost its power leaves, is cut off first: it never was a vote.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        file.truncate(whole)
        file.seek(whole)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_votes(path: Path) -> list[Vote]:
    """Return the votes in a file, in their order; none if the file does not exist.

    Raises:
        InputError: A row is no vote; names it. A half-written last row is passed over.
    """
    return read_rows(path, Vote)


def read_scores(path: Path) -> list[Score]:
    """Return the scores in a file; raises as `read_votes` does."""
    return read_rows(path, Score)


def require_known(path: Path, votes: Sequence[Vote], samples: Sequence[Samples]) -> None:
    """Refuse votes on answers that `samples.jsonl` does not hold, and votes that give no pair at all.

    Args:
        path: The file of the votes, for an error.
        votes: The current votes.
        samples: The answers that were drawn.

    Raises:
        InputError: A vote is about a question without samples, or about an answer that is not among them; or no vote
            prefers one answer to another.
    """
    _require_answers(path, [(vote.prompt_id, vote.answers) for vote in votes], samples)
    if not any(map(ranked_pairs, votes)):
        kind = "is a tie of all its answers" if any(vote.is_tie for vote in votes) else "is skipped or all bad"
        raise InputError(
            f"{path} holds {len(votes)} votes and every one {kind}, so that nothing is preferred; rank more"
        )


def require_scored(path: Path, scores: Sequence[Score], samples: Sequence[Samples]) -> None:
    """Refuse scores of answers that `samples.jsonl` does not hold, and scores that are all the same.

    Raises:
        InputError: As `require_known`; or fewer than two different scores.
    """
    _require_answers(path, [(row.prompt_id, [row.answer]) for row in scores], samples)
    if len({row.score for row in scores}) < 2:
        raise InputError(f"{path} holds {len(scores)} scores without two different ones; score more answers")


def _require_answers(path: Path, rows: Sequence[tuple[int, Sequence[str]]], samples: Sequence[Samples]) -> None:
    texts = {row.id: row.texts() for row in samples}
    if deleted := sorted({ident for ident, _ in rows if ident not in texts}):
        raise InputError(
            f"{path} has votes on question {deleted[0]}, whose samples are deleted; bring them back (`git checkout "
            "dvc.lock` and `dvc checkout`), or remove the votes on it"
        )
    unknown = [(ident, answer) for ident, answers in rows for answer in answers if answer not in texts[ident]]
    if unknown:
        ident, answer = unknown[0]
        raise InputError(
            f"{path} ranks {len(unknown)} unknown answers, the first of question {ident} with hash {answer[:12]}; "
            "expected the answers in samples.jsonl: bring back those that were ranked, or rank again"
        )


def read_rows(path: Path, schema: type[Row]) -> list[Row]:
    """Return the rows of a file; raises as `read_votes` does."""
    content = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = content.split("\n")[:-1]
    return [_parsed(line, schema, f"{path}, row {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(line: str, schema: type[Row], where: str) -> Row:
    try:
        return schema.model_validate_json(line)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error, 'the row')}; correct or remove the row") from None
