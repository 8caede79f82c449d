"""Votes by a model (RLAIF): the model behind an OpenAI-style endpoint, or the stance judge.

A model is asked about every two answers twice, once in each order. Where the two replies disagree, the two answers are
a tie. An answer gets one point for each answer that it beats and half a point for each tie; the points give the ranks.
The stance judge ranks by its score, which no order changes.

A failing endpoint costs the votes that it fails, and nothing else: what it voted before is in the file. After
`FAILURES` questions in a row that fail, no more are asked.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from openai import OpenAI

from stance.client.endpoint import Endpoint, explaining
from stance.data.chat import Message
from stance.data.questions import Stance
from stance.data.samples import Samples
from stance.data.votes import Vote, append_vote, latest, read_votes
from stance.errors import InputError
from stance.evaluation.fitted import Classifier
from stance.evaluation.vote_agreement import agreement, require_agreement, with_people
from stance.language.comparison import Request, letter
from stance.ranking.items import Item, seed_of, shown

logger = logging.getLogger(__name__)

FAILURES = 3
"""Questions in a row that fail before no more are asked."""
TOKENS = 8
"""Most tokens of a reply that names a letter."""
AT_ONCE, TIMEOUT = 8, 60
"""Requests at the same time, and seconds that one of them may take."""
SAME = 0.05
"""Scores of the stance judge, between -1 and 1, that differ by less are a tie with the next better one."""

Ranker = Callable[[Item], list[int]]
"""Returns the ranks of the answers of an item, in the order shown; raises `InputError` if it fails."""


class Bound(NamedTuple):
    """What a model must reach with people before it may vote alone."""

    kappa: float
    questions: int


def endpoint_ranker(endpoint: Endpoint, model: str, request: Request, guideline: str) -> Ranker:
    """Return the ranking of the model behind an endpoint."""
    task: Message = {"role": "system", "content": request.task.format(guideline=guideline)}

    def rank(item: Item) -> list[int]:
        texts = [answer.text for answer in item.answers]
        ordered = [way for a, b in combinations(range(len(texts)), 2) for way in ((a, b), (b, a))]
        asked = [
            [task, _user(request.frame.format(question=item.prompt, first=texts[a], second=texts[b]))]
            for a, b in ordered
        ]
        with endpoint.client(max_retries=1, timeout=TIMEOUT) as client, ThreadPoolExecutor(AT_ONCE) as pool:
            replies = list(pool.map(lambda messages: reply(client, endpoint, model, messages, TOKENS), asked))
        better = [_better(text, *way, endpoint) for text, way in zip(replies, ordered, strict=True)]
        return ranks_of_points(points(len(texts), zip(better[::2], better[1::2], strict=True)))

    return rank


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def reply(client: OpenAI, endpoint: Endpoint, model: str, messages: list[Message], tokens: int) -> str:
    """Return the reply of a model; raises as `explaining` does."""
    given: Any = messages
    with explaining(endpoint, model):
        answer = client.chat.completions.create(model=model, messages=given, temperature=0, max_tokens=tokens)
        return str(answer.choices[0].message.content or "").strip()


def _better(text: str, first: int, second: int, endpoint: Endpoint) -> int:
    """Return the answer that a reply prefers."""
    named = letter(text)
    if named is None:
        raise InputError(f"{endpoint.url} replies {text[:40]!r}; expected the letter A or B")
    return first if named == "A" else second


def points(count: int, rows: Iterable[tuple[int, int]]) -> list[float]:
    """Return the points of each answer.

    Args:
        count: Number of answers.
        rows: For every two answers, the one that is preferred in either order; two different ones are a tie.
    """
    total = [0.0] * count
    for preferred in rows:
        for winner in preferred:
            total[winner] += 0.5
    return total


def ranks_of_points(values: Sequence[float]) -> list[int]:
    """Return the ranks of values: the largest has rank 1, and equal values have one rank."""
    levels = sorted(set(values), reverse=True)
    return [levels.index(value) + 1 for value in values]


def judge_ranker(judge: Classifier, prefer: Stance) -> Ranker:
    """Return the ranking of the stance judge, which prefers the answers that take a side most clearly."""
    sign = 1 if prefer == "support" else -1

    def rank(item: Item) -> list[int]:
        texts = [answer.text for answer in item.answers]
        return ranks_of_scores([sign * verdict.score for verdict in judge.predict([item.prompt] * len(texts), texts)])

    return rank


def ranks_of_scores(scores: Sequence[float]) -> list[int]:
    """Return the ranks of scores. A score less than `SAME` below the next better one has its rank."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    ranks = dict.fromkeys(order[:1], 1)
    for before, index in zip(order, order[1:], strict=False):
        ranks[index] = ranks[before] + (scores[before] - scores[index] >= SAME)
    return [ranks[index] for index in range(len(scores))]


def vote(rows: Sequence[Samples], path: Path, voter: str, rank: Ranker, reason: str, bound: Bound) -> int:
    """Let a model vote: first where people have ranked, and then, if it agrees with them, on all other questions.

    Args:
        rows: The questions, in the order of `rankable`.
        path: The file of the votes. Every vote is appended at once.
        voter: The name by which the model votes.
        rank: Ranks the answers of an item.
        reason: What the model goes by; it is saved with every vote.
        bound: What the model must reach with people before it votes alone.

    Returns:
        Number of new votes.

    Raises:
        InputError: Every question failed; or the model may not vote alone, with the figures.
    """
    votes = read_votes(path)
    if voter in {vote.by for vote in votes if not vote.is_model}:
        raise InputError(f"a person has voted under the name {voter}; give the model another one with --name")
    shared = by_people(rows, votes)
    alone = [row for row in rows if row not in shared]
    new = _vote_on(shared, votes, path, voter, rank, reason)
    votes = read_votes(path)
    logger.info("%s and people: %s", voter, agreement(with_people(votes, voter)) or "nothing in common yet")
    require_agreement(votes, voter, bound.kappa, bound.questions)
    return new + _vote_on(alone, votes, path, voter, rank, reason)


def by_people(rows: Sequence[Samples], votes: Iterable[Vote]) -> list[Samples]:
    """Return the questions whose present answers a person has ranked."""
    ranked = {
        (vote.prompt_id, frozenset(vote.answers)) for vote in latest(votes) if not vote.is_model and not vote.skipped
    }
    return [row for row in rows if (row.id, frozenset(row.texts())) in ranked]


def _vote_on(rows: Sequence[Samples], votes: Iterable[Vote], path: Path, voter: str, rank: Ranker, reason: str) -> int:
    """Append the model's votes on the questions on which it has not voted yet, and return their number."""
    voted = {(vote.prompt_id, frozenset(vote.answers)) for vote in latest(votes) if vote.by == voter}
    waiting = [row for row in rows if (row.id, frozenset(row.texts())) not in voted]
    new, failures = 0, 0
    for number, row in enumerate(waiting, start=1):
        item = shown(row, seed_of(voter, row.id, 0))
        try:
            ranks = rank(item)
        except InputError as problem:
            failures += 1
            logger.warning("no vote on question %d: %s", row.id, problem)
            if failures == FAILURES:
                logger.warning("%d questions in a row failed; %d are not asked", failures, len(waiting) - number)
                break
            continue
        append_vote(path, model_vote(item, ranks, voter, reason))
        new, failures = new + 1, 0
    return new


def model_vote(item: Item, ranks: Sequence[int], voter: str, reason: str) -> Vote:
    """Return a model's vote on an item."""
    return Vote(
        prompt_id=item.id,
        answers=[answer.sha256 for answer in item.answers],
        ranks=list(ranks),
        by=voter,
        at=datetime.now(UTC),
        seed=item.seed,
        reason=reason,
        is_model=True,
    )
