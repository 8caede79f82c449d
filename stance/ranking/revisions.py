"""Critique and revision: a model criticises a sampled answer and writes a better one (arXiv 2212.08073).

Each row gives a pair: the revision is chosen and the draft is rejected. This is a label by a model alone, so the model
must have agreed with people before (`require_agreement`). Rows are appended to `revisions.jsonl` beside the votes.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from stance.client.endpoint import Endpoint
from stance.config.section import Sha256
from stance.data.chat import conversation
from stance.data.samples import Samples
from stance.data.votes import append_vote, read_rows
from stance.errors import InputError
from stance.language.comparison import Request
from stance.ranking.model_votes import FAILURES, TIMEOUT, reply

logger = logging.getLogger(__name__)

FILE = "revisions.jsonl"
TOKENS = 300
"""Most tokens of a critique or a revision."""


class Revision(BaseModel):
    """A draft, what is wrong with it, and a better answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt_id: int
    draft: Sha256
    """The hash of the sampled answer."""
    critique: str
    revision: str = Field(min_length=1)
    by: str = Field(min_length=1)
    """The name of the model."""
    at: AwareDatetime


def revise(
    rows: Sequence[Samples], path: Path, endpoint: Endpoint, model: str, name: str, request: Request, guideline: str
) -> int:
    """Append a revision of the first answer to every question that has none by this model, and return their number."""
    revised = {(row.prompt_id, row.draft) for row in read_rows(path, Revision) if row.by == name}
    waiting = [row for row in rows if (row.id, row.answers[0].sha256) not in revised]
    new, failures = 0, 0
    for number, row in enumerate(waiting, start=1):
        try:
            append_vote(path, _revision(row, endpoint, model, name, request, guideline))
        except InputError as problem:
            failures += 1
            logger.warning("no revision for question %d: %s", row.id, problem)
            if failures == FAILURES:
                logger.warning("%d questions in a row failed; %d are not asked", failures, len(waiting) - number)
                break
            continue
        new, failures = new + 1, 0
    return new


def _revision(row: Samples, endpoint: Endpoint, model: str, name: str, request: Request, guideline: str) -> Revision:
    draft = row.answers[0]
    values = {"guideline": guideline, "question": row.prompt, "answer": draft.text}

    def ask(text: str) -> str:
        with endpoint.client(max_retries=1, timeout=TIMEOUT) as client:
            answer = reply(client, endpoint, model, [{"role": "user", "content": text}], TOKENS)
        if not answer:
            raise InputError(f"{endpoint.url} gives an empty reply; expected a text")
        return answer

    critique = ask(request.critique.format(**values))
    revision = ask(request.revision.format(**values, critique=critique))
    if revision == draft.text:
        raise InputError("the revision is the draft itself, which gives no pair")
    return Revision(
        prompt_id=row.id, draft=draft.sha256, critique=critique, revision=revision, by=name, at=datetime.now(UTC)
    )


def revision_rows(
    revisions: Iterable[Revision], samples: Sequence[Samples], system_prompt: str
) -> list[dict[str, Any]]:
    """Return a preference row for every revision of a known draft: the revision is chosen, the draft rejected."""
    by_id = {row.id: row for row in samples}
    return [
        {
            "prompt": list(conversation(system_prompt, row.prompt)),
            "chosen": [{"role": "assistant", "content": revision.revision}],
            "rejected": [{"role": "assistant", "content": row.texts()[revision.draft]}],
        }
        for revision in revisions
        if (row := by_id.get(revision.prompt_id)) and revision.draft in row.texts()
    ]
