"""The pairs that follow from votes, and what the linter says about them."""

from collections.abc import Iterable, Sequence

from stance.data.chat import conversation
from stance.data.lint import (
    beyond_the_limit,
    mixed_scripts,
    own_length_confound,
    own_opening_confound,
    questions_of,
    same_answers,
)
from stance.data.preferences import Pair, Turn
from stance.data.records import LintWarning
from stance.data.samples import Samples
from stance.data.votes import Vote, ranked_pairs
from stance.language.languages import language


def known_votes(votes: Iterable[Vote], samples: Iterable[Samples]) -> list[Vote]:
    """Return the votes whose answers are all among the samples."""
    answers = {row.id: row.texts().keys() for row in samples}
    return [vote for vote in votes if set(vote.answers) <= answers.get(vote.prompt_id, set())]


def pairs_of(votes: Iterable[Vote], samples: Sequence[Samples], system_prompt: str) -> list[Pair]:
    """Return the preference pairs that follow from votes on known answers, in the order of the questions.

    A pair that several votes prefer stands there once for each of them. The stance of the answers is not known: `Pair`
    needs one, so the chosen answer stands as *support* and the rejected one as *neutral*, the model's own.
    """
    by_id = {row.id: row for row in samples}
    rows = []
    for vote in sorted(votes, key=lambda vote: vote.prompt_id):
        row = by_id[vote.prompt_id]
        prompt = [Turn.model_validate(turn) for turn in conversation(system_prompt, row.prompt)]
        texts = row.texts()
        rows += [
            Pair(
                id=row.id,
                preferred="support",
                against="neutral",
                prompt=prompt,
                chosen=[Turn(role="assistant", content=texts[pair.chosen])],
                rejected=[Turn(role="assistant", content=texts[pair.rejected])],
            )
            for pair in ranked_pairs(vote)
        ]
    return rows


def lint(pairs: Sequence[Pair], system_prompt: str) -> list[LintWarning]:
    """Return a warning for whatever the pairs of `pairs_of` teach besides the ranking; none if there are no pairs.

    Args:
        pairs: The pairs.
        system_prompt: It may limit the length of an answer.
    """
    if not pairs:
        return []
    spoken = language([*questions_of(pairs).values(), *(pair.chosen_text for pair in pairs)])
    return [
        *same_answers(pairs),
        *own_length_confound(pairs),
        *own_opening_confound(pairs, spoken),
        *beyond_the_limit(pairs, system_prompt),
        *mixed_scripts(pairs),
    ]
