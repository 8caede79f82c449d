"""What a data set may teach besides the stance, or measure wrongly: warnings with the ids of the rows.

A preference model learns whatever separates chosen from rejected most easily: length, an opening, the order of rows
(the length bias of DPO: arXiv 2403.19159). A test prompt that resembles a training question measures memory.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from stance.data.questions import Prompt, Question
from stance.data.records import LintWarning
from stance.errors import InputError
from stance.language.messages import message, sentence
from stance.language.zh_hant import length_limit, polarity, script

SIDES = ("support", "oppose")
LONGER = 0.75
"""Share of the pairs in which one side may be the longer one."""
OPENING, RIVAL = 0.25, 1 / 3
"""Share of one side's answers that may begin alike, and how much of it the other side must have to excuse it."""
COMMON = 0.8
"""Share of a side's answers that may contain the same three characters."""
SIMILAR = 0.5
"""Cosine of TF-IDF over single characters and pairs of them; above it two Chinese questions ask nearly the same."""
ASKED = re.compile(r"是否|能否|可否|會不會|能不能|嗎[？?]?$")
CHANGED = re.compile(r"會改變|會不會改變")
SHOWN = 3
"""Examples in a warning."""


def lint(
    questions: Sequence[Question],
    prompts: Sequence[Prompt],
    directions: Sequence[bool],
    system_prompt: str,
    neutral: Mapping[int, str] = MappingProxyType({}),
) -> list[LintWarning]:
    """Return what looks wrong.

    Args:
        questions: Those that are trained on.
        prompts: The test prompts.
        directions: For each question whether *support* is the chosen answer, or once more for each.
        system_prompt: Which may limit the length of an answer.
        neutral: By question, the base model's own answer where that is the rejected one.
    """
    own = own_answers(questions, directions, neutral)
    return [
        *length_confound(questions),
        *own_length_confound(own),
        *own_opening_confound(own),
        *opening_confound(questions),
        *common_words(questions),
        *beyond_the_limit(questions, system_prompt),
        *negated(questions),
        *near_duplicates(questions),
        *known_prompts(questions, prompts),
        *order_confound(questions, directions),
        *mixed_scripts(questions),
    ]


def refuse(found: Sequence[LintWarning]) -> None:
    """Turn warnings into an error.

    Raises:
        InputError: There are some; names them all.
    """
    if found:
        named = ", ".join(f"{row.check} ({sentence(row.message)})" for row in found)
        raise InputError(f"pairs.strict is true and the data set has {named}; correct the data, or set it to false")


def length_confound(questions: Sequence[Question]) -> list[LintWarning]:
    """Is one side nearly always the longer one?"""
    longer = {
        side: [row.id for row in questions if len(getattr(row, side)) > len(getattr(row, other))]
        for side, other in zip(SIDES, reversed(SIDES), strict=True)
    }
    return [
        LintWarning(
            check="length",
            message=message("side_is_longer", side=side, number=len(ids), all=len(questions)),
            rows=ids,
        )
        for side, ids in longer.items()
        if len(ids) > LONGER * len(questions)
    ]


class Own(NamedTuple):
    """A pair that rejects the base model's own answer."""

    id: int
    chosen: str
    rejected: str


def own_answers(questions: Sequence[Question], directions: Sequence[bool], neutral: Mapping[int, str]) -> list[Own]:
    """Return the pairs in which the base model's own answer is the rejected one."""
    asked = zip([*questions, *questions], directions, strict=False)
    return [
        Own(row.id, row.support if support else row.oppose, neutral[row.id])
        for row, support in asked
        if row.id in neutral
    ]


def own_length_confound(pairs: Sequence[Own]) -> list[LintWarning]:
    """Are the base model's own answers nearly always longer than the chosen ones, or shorter?"""
    longer = [pair.id for pair in pairs if len(pair.rejected) > len(pair.chosen)]
    shorter = [pair.id for pair in pairs if len(pair.rejected) < len(pair.chosen)]
    return [
        LintWarning(
            check="length", message=message(name, number=len(ids), all=len(pairs)), rows=list(dict.fromkeys(ids))
        )
        for name, ids in (("base_answers_longer", longer), ("base_answers_shorter", shorter))
        if len(ids) > LONGER * len(pairs)
    ]


def own_opening_confound(pairs: Sequence[Own]) -> list[LintWarning]:
    """Which openings are frequent in the base model's own answers and rare in the chosen ones?"""
    warnings = []
    for opening, count, rival in telling_openings([pair.rejected for pair in pairs], [pair.chosen for pair in pairs]):
        ids = dict.fromkeys(pair.id for pair in pairs if pair.rejected.startswith(opening))
        text = message("base_answers_begin", number=count, all=len(pairs), opening=opening, rival=rival)
        warnings.append(LintWarning(check="opening", message=text, rows=list(ids)))
    return warnings


def opening_confound(questions: Sequence[Question]) -> list[LintWarning]:
    """Which openings are frequent on one side and rare on the other?"""
    warnings = []
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        answers, rivals = ([getattr(row, name) for row in questions] for name in (side, other))
        for opening, count, rival in telling_openings(answers, rivals):
            ids = [row.id for row in questions if getattr(row, side).startswith(opening)]
            text = message("answers_begin", number=count, all=len(questions), side=side, opening=opening, rival=rival)
            warnings.append(LintWarning(check="opening", message=text, rows=ids))
    return warnings


def telling_openings(answers: Sequence[str], rivals: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return what many answers begin with and few of their rivals do, and how many of either."""
    counted = [
        (opening, count, sum(rival.startswith(opening) for rival in rivals))
        for opening, count in frequent_openings(answers)
    ]
    return [(opening, count, rival) for opening, count, rival in counted if rival < RIVAL * count]


def frequent_openings(answers: Sequence[str]) -> list[tuple[str, int]]:
    """Return the beginnings of two to eight characters that many answers share; of equally frequent the longest."""
    counts = Counter(answer[:length] for answer in answers for length in range(2, 9) if len(answer) > length)
    often = {opening: count for opening, count in counts.items() if count > OPENING * len(answers)}
    return [
        (opening, count)
        for opening, count in often.items()
        if not any(other != opening and other.startswith(opening) and often[other] == count for other in often)
    ]


def common_words(questions: Sequence[Question]) -> list[LintWarning]:
    """Do nearly all answers of a side hold the same three characters?"""
    warnings = []
    for side in SIDES:
        holders: dict[str, set[int]] = {}
        for row in questions:
            text = getattr(row, side)
            for start in range(len(text) - 2):
                holders.setdefault(text[start : start + 3], set()).add(row.id)
        for characters, ids in holders.items():
            if len(ids) > COMMON * len(questions):
                text = message("answers_hold", number=len(ids), all=len(questions), side=side, characters=characters)
                warnings.append(LintWarning(check="wording", message=text, rows=sorted(ids)))
    return warnings


def beyond_the_limit(questions: Sequence[Question], system_prompt: str) -> list[LintWarning]:
    """Which answers are longer than the system prompt asks?"""
    limit = length_limit(system_prompt)
    texts = [(row.id, getattr(row, side)) for row in questions for side in SIDES]
    over = [ident for ident, text in texts if limit is not None and len(text) > limit]
    if limit is None or not over:
        return []
    text = message("answers_too_long", number=len(over), all=len(texts), limit=limit, prompt=system_prompt)
    return [LintWarning(check="limit", message=text, rows=list(dict.fromkeys(over)))]


def negated(questions: Sequence[Question]) -> list[LintWarning]:
    """Which questions ask for a drawback, so that the answer that supports the topic says no?"""
    ids = [row.id for row in questions if asks_for_a_drawback(row.prompt)]
    text = message("drawback_questions", number=len(ids), all=len(questions))
    return [LintWarning(check="negated", message=text, rows=ids)] if ids else []


def asks_for_a_drawback(prompt: str) -> bool:
    """Is it a question for yes or no, and yes is bad?"""
    return bool(ASKED.search(prompt)) and (polarity(prompt) < 0 or bool(CHANGED.search(prompt)))


def near_duplicates(questions: Sequence[Question]) -> list[LintWarning]:
    """Which questions, and which answers of different questions, say nearly the same?"""
    asked = [(row.id, row.prompt) for row in questions]
    answers = [(row.id, getattr(row, side)) for row in questions for side in SIDES]
    warnings = []
    for name, texts in (("similar_questions", asked), ("similar_answers", answers)):
        alike = [(a, b) for a, b in similar([text for _, text in texts]) if texts[a][0] != texts[b][0]]
        if alike:
            examples = [(texts[a][1], texts[b][1]) for a, b in alike[:SHOWN]]
            ids = sorted({texts[index][0] for pair in alike for index in pair})
            text = message(name, number=len(alike), examples=examples)
            warnings.append(LintWarning(check="duplicates", message=text, rows=ids))
    return warnings


def known_prompts(questions: Sequence[Question], prompts: Sequence[Prompt]) -> list[LintWarning]:
    """Which test prompts nearly ask a training question?"""
    texts = [row.prompt for row in (*questions, *prompts)]
    alike = [(a, b) for a, b in similar(texts) if a < len(questions) <= b]
    ids = sorted({prompts[b - len(questions)].id for _, b in alike})
    examples = [(texts[b], texts[a]) for a, b in alike[:SHOWN]]
    text = message("similar_prompts", number=len(ids), all=len(prompts), examples=examples)
    return [LintWarning(check="leak", message=text, rows=ids)] if ids else []


def similar(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of texts that are alike, the most alike first."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds, and not all who import this compare

    weights = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    cosines = (weights @ weights.T).tocoo()
    cells = zip(*cosines.coords, cosines.data, strict=True)
    found = sorted((-value, int(a), int(b)) for a, b, value in cells if a < b and value > SIMILAR)
    return [(a, b) for _, a, b in found]


def order_confound(questions: Sequence[Question], directions: Sequence[bool]) -> list[LintWarning]:
    """Are all pairs of one direction before all of the other?"""
    both_ways = len(directions) == 2 * len(questions) and not any(
        a == b for a, b in zip(directions, directions[len(questions) :], strict=False)
    )
    turns = 0 if both_ways else sum(a != b for a, b in zip(directions, directions[1:], strict=False))
    if turns != 1:
        return []
    first = directions.index(directions[-1])
    text = message("order_is_direction", first=first, rest=len(directions) - first)
    asked = [*questions, *questions][first : len(directions)]
    return [LintWarning(check="order", message=text, rows=list(dict.fromkeys(row.id for row in asked)))]


def mixed_scripts(questions: Sequence[Question]) -> list[LintWarning]:
    """Which rows hold texts in another script than most do, or simplified and traditional characters in one?"""
    texts = [(row.id, text) for row in questions for text in (row.prompt, row.support, row.oppose)]
    scripts = [(ident, script(text)) for ident, text in texts]
    usual = Counter(found for _, found in scripts if found != "either").most_common(1)
    ids = sorted({ident for ident, found in scripts if found != "either" and found != usual[0][0]})
    if not ids:
        return []
    text = message("other_script", number=len(ids), script=usual[0][0])
    return [LintWarning(check="script", message=text, rows=ids)]
