"""What a data set may teach besides the stance, or measure wrongly: warnings with the ids of the rows.

A preference model learns whatever separates chosen from rejected most easily: length, an opening, the order of rows
(the length bias of DPO: arXiv 2403.19159). A test prompt that resembles a training question measures memory.

In: the pairs, the test prompts, the system prompt. Out: `LintWarning`s. The language of the data set decides what is
compared: words where spaces part them, characters elsewhere. In a language with spaces many answers begin with *The*,
so that a wording counts only if it tells the stance better than chance does.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stance.data.preferences import Pair
from stance.data.questions import Prompt, Question, Stance
from stance.data.records import LintWarning
from stance.errors import InputError
from stance.language.detect import script, words
from stance.language.languages import Language, language
from stance.language.limits import length_limit
from stance.language.messages import message, sentence

SIDES: tuple[Stance, Stance] = ("support", "oppose")
LONGER = 0.75
"""Share of the pairs in which one side may be the longer one."""
OPENING, RIVAL = 0.25, 1 / 3
"""Share of one side's answers that may begin alike, and how much of it the other side must have to excuse it. For
languages without spaces."""
CHANCE = 0.01
"""Probability below which a wording tells the stance; for languages with spaces. Of answers that share a wording which
says nothing about the stance, each is on either side with probability one half: 7 of 7 on one side are beyond chance,
6 of 6 are not."""
COMMON = 0.8
"""Share of a side's answers that may contain the same three characters, or the same word that the other side lacks."""
SIMILAR = 0.5
"""Cosine of TF-IDF above which two questions ask nearly the same. Measured on both English sets: the closest different
questions have 0.35, sentences with the same words in another order 0.6 and more."""
DRAWBACKS = 0.25
"""Share of the questions that may ask for a drawback where no answer begins with yes or no."""
SHOWN = 3
"""Examples in a warning."""


def lint(
    pairs: Sequence[Pair], prompts: Sequence[Prompt], system_prompt: str, held_out: Sequence[Question] = ()
) -> list[LintWarning]:
    """Return a warning for whatever the pairs teach besides the stance, and for questions that measure memory.

    Args:
        pairs: The pairs that are trained on, in their order.
        prompts: The test prompts.
        system_prompt: It may limit the length of an answer.
        held_out: The questions that are not trained on.
    """
    spoken = language([*questions_of(pairs).values(), *(text for _, _, text in labelled(pairs))])
    return [
        *same_answers(pairs),
        *length_confound(pairs),
        *own_length_confound(pairs),
        *own_opening_confound(pairs, spoken),
        *opening_confound(pairs, spoken),
        *common_words(pairs, spoken),
        *beyond_the_limit(pairs, system_prompt),
        *negated(pairs, spoken),
        *near_duplicates(pairs, spoken),
        *known_prompts(pairs, prompts, spoken),
        *known_held_out(pairs, held_out, spoken),
        *order_confound(pairs),
        *mixed_scripts(pairs),
    ]


def refuse(warnings: Sequence[LintWarning]) -> None:
    """Turn warnings into an error.

    Raises:
        InputError: There is a warning; names all of them.
    """
    if warnings:
        named = ", ".join(f"{warning.check} ({sentence(warning.message)})" for warning in warnings)
        raise InputError(f"pairs.strict is true and the data set has {named}; correct the data, or set it to false")


def questions_of(pairs: Sequence[Pair]) -> dict[int, str]:
    """Return each question once, by its id."""
    return {pair.id: pair.question for pair in pairs}


def opposed(pairs: Sequence[Pair]) -> dict[int, dict[Stance, str]]:
    """Return the *support* and the *oppose* answer of each question that is trained on with both, by its id."""
    return {pair.id: pair.answers() for pair in pairs if pair.against != "neutral"}


def labelled(pairs: Sequence[Pair]) -> list[tuple[int, Stance, str]]:
    """Return id, stance and text of each labelled answer once: the base model's own answers are not labelled."""
    texts = {(pair.id, side): pair.answers()[side] for pair in pairs for side in SIDES if side in pair.answers()}
    return [(ident, side, text) for (ident, side), text in texts.items()]


def rejecting_base_answers(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs whose rejected answer is the base model's own."""
    return [pair for pair in pairs if pair.against == "neutral"]


def same_answers(pairs: Sequence[Pair]) -> list[LintWarning]:
    """Which pairs have one text as both answers? Capitals, spaces and punctuation do not count."""
    same = [pair for pair in pairs if bare(pair.chosen_text) == bare(pair.rejected_text)]
    examples = [(pair.chosen_text, pair.rejected_text) for pair in same[:SHOWN]]
    text = message("same_answers", number=len(same), all=len(pairs), examples=examples)
    ids = list(dict.fromkeys(pair.id for pair in same))
    return [LintWarning(check="same", message=text, rows=ids)] if same else []


def bare(text: str) -> str:
    """Return the letters and digits of a text in lower case, or the text itself if it has none."""
    return "".join(character for character in text.casefold() if character.isalnum()) or text


def length_confound(pairs: Sequence[Pair]) -> list[LintWarning]:
    """Is one side nearly always the longer one?"""
    answers = opposed(pairs)
    longer = {
        side: [ident for ident, texts in answers.items() if len(texts[side]) > len(texts[other])]
        for side, other in zip(SIDES, reversed(SIDES), strict=True)
    }
    return [
        LintWarning(
            check="length", message=message("side_is_longer", side=side, number=len(ids), all=len(answers)), rows=ids
        )
        for side, ids in longer.items()
        if len(ids) > LONGER * len(answers)
    ]


def own_length_confound(pairs: Sequence[Pair]) -> list[LintWarning]:
    """Are the base model's own answers nearly always longer than the chosen ones, or shorter?"""
    own = rejecting_base_answers(pairs)
    longer = [pair.id for pair in own if len(pair.rejected_text) > len(pair.chosen_text)]
    shorter = [pair.id for pair in own if len(pair.rejected_text) < len(pair.chosen_text)]
    return [
        LintWarning(check="length", message=message(name, number=len(ids), all=len(own)), rows=list(dict.fromkeys(ids)))
        for name, ids in (("base_answers_longer", longer), ("base_answers_shorter", shorter))
        if len(ids) > LONGER * len(own)
    ]


def own_opening_confound(pairs: Sequence[Pair], spoken: Language) -> list[LintWarning]:
    """Which openings are frequent in the base model's own answers and rare in the chosen ones?"""
    own = rejecting_base_answers(pairs)
    rejected, chosen = [pair.rejected_text for pair in own], [pair.chosen_text for pair in own]
    warnings = []
    for opening, count, rival in telling_openings(rejected, chosen, spoken):
        ids = dict.fromkeys(pair.id for pair in own if opening in openings(pair.rejected_text, spoken))
        text = message("base_answers_begin", number=count, all=len(own), opening=opening, rival=rival)
        warnings.append(LintWarning(check="opening", message=text, rows=list(ids)))
    return warnings


def opening_confound(pairs: Sequence[Pair], spoken: Language) -> list[LintWarning]:
    """Which openings are frequent on one side and rare on the other?"""
    answers = opposed(pairs)
    warnings = []
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        texts, rivals = ([row[name] for row in answers.values()] for name in (side, other))
        for opening, count, rival in telling_openings(texts, rivals, spoken):
            ids = [ident for ident, row in answers.items() if opening in openings(row[side], spoken)]
            text = message("answers_begin", number=count, all=len(answers), side=side, opening=opening, rival=rival)
            warnings.append(LintWarning(check="opening", message=text, rows=ids))
    return warnings


def telling_openings(answers: Sequence[str], rivals: Sequence[str], spoken: Language) -> list[tuple[str, int, int]]:
    """Return what many answers begin with and few of their rivals do, and how many of either.

    Of openings that the same answers have, the longest is returned.
    """
    counts, rival_counts = (
        Counter(part for text in texts for part in openings(text, spoken)) for texts in (answers, rivals)
    )
    often = {opening: count for opening, count in counts.items() if spoken.spaced or count > OPENING * len(answers)}
    longest = [
        (opening, count)
        for opening, count in often.items()
        if not any(other != opening and other.startswith(opening) and often[other] == count for other in often)
    ]
    counted = [(opening, count, rival_counts[opening]) for opening, count in longest]
    if spoken.spaced:
        return widest([row for row in counted if beyond_chance(row[1], row[2])])
    return [row for row in counted if row[2] < RIVAL * row[1]]


def widest(rows: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Return the openings that do not begin with another of them: *Yes*, and not *Yes, they* as well."""
    return [row for row in rows if not any(row[0] != other and row[0].startswith(other) for other, _, _ in rows)]


def openings(answer: str, spoken: Language) -> list[str]:
    """Return how an answer begins: its first one to three words in lower case, or its first two to eight characters."""
    if not spoken.spaced:
        return [answer[:length] for length in range(2, 9) if len(answer) > length]
    first = words(answer)[:3]
    return [" ".join(first[:length]) for length in range(1, len(first) + 1)]


def beyond_chance(count: int, rival: int) -> bool:
    """Do `count` answers of one side and `rival` of the other tell the side better than a coin would, at `CHANCE`?"""
    total = count + rival
    likely = sum(math.comb(total, heads) for heads in range(count, total + 1))
    return likely / (1 << total) < CHANCE


def common_words(pairs: Sequence[Pair], spoken: Language) -> list[LintWarning]:
    """Do nearly all answers of a side hold the same three characters, or the same word that the others lack?"""
    warnings = []
    texts = {side: {ident: text for ident, stance, text in labelled(pairs) if stance == side} for side in SIDES}
    held = {side: holders(texts[side], spoken) for side in SIDES}
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        for characters, ids in held[side].items():
            telling = not spoken.spaced or beyond_chance(len(ids), len(held[other].get(characters, ())))
            if len(ids) > COMMON * len(texts[side]) and telling:
                text = message("answers_hold", number=len(ids), all=len(texts[side]), side=side, characters=characters)
                warnings.append(LintWarning(check="wording", message=text, rows=sorted(ids)))
    return warnings


def holders(texts: Mapping[int, str], spoken: Language) -> dict[str, set[int]]:
    """Return the ids of the texts that hold each word, or each three characters."""
    ids: dict[str, set[int]] = {}
    for ident, text in texts.items():
        parts = words(text) if spoken.spaced else (text[start : start + 3] for start in range(len(text) - 2))
        for part in parts:
            ids.setdefault(part, set()).add(ident)
    return ids


def beyond_the_limit(pairs: Sequence[Pair], system_prompt: str) -> list[LintWarning]:
    """Which answers are longer than the system prompt asks?"""
    limit, texts = length_limit(system_prompt), labelled(pairs)
    over = [ident for ident, _, text in texts if limit is not None and limit.exceeded_by(text)]
    if limit is None or not over:
        return []
    name = "answers_too_long_in_words" if limit.unit == "words" else "answers_too_long_in_characters"
    text = message(
        name,
        number=len(over),
        all=len(texts),
        limit=limit.number,
        prompt=system_prompt,
    )
    return [LintWarning(check="limit", message=text, rows=list(dict.fromkeys(over)))]


def negated(pairs: Sequence[Pair], spoken: Language) -> list[LintWarning]:
    """Which questions ask for a drawback, so that the answer that supports the topic says no?

    In a language with spaces a few of them teach nothing where the answers do not begin with no or yes.
    """
    questions = questions_of(pairs)
    ids = [ident for ident, prompt in questions.items() if spoken.asks_for_a_drawback(prompt)]
    if spoken.spaced and len(ids) <= DRAWBACKS * len(questions):
        answered = reversed_answers(pairs, spoken)
        ids = [ident for ident in ids if ident in answered]
    text = message("drawback_questions", number=len(ids), all=len(questions))
    return [LintWarning(check="negated", message=text, rows=ids)] if ids else []


def reversed_answers(pairs: Sequence[Pair], spoken: Language) -> set[int]:
    """Return the ids of the questions whose support answer begins with no, or whose oppose answer begins with yes."""
    begin = {"support": spoken.denial, "oppose": spoken.assent}
    return {ident for ident, side, text in labelled(pairs) if begin[side].match(text)}


def near_duplicates(pairs: Sequence[Pair], spoken: Language) -> list[LintWarning]:
    """Which questions, and which answers of different questions, say nearly the same?"""
    answers = [(ident, text) for ident, _, text in labelled(pairs)]
    warnings = []
    for name, texts in (("similar_questions", list(questions_of(pairs).items())), ("similar_answers", answers)):
        alike = [(a, b) for a, b in similar([text for _, text in texts], spoken) if texts[a][0] != texts[b][0]]
        if alike:
            examples = [(texts[a][1], texts[b][1]) for a, b in alike[:SHOWN]]
            ids = sorted({texts[index][0] for places in alike for index in places})
            text = message(name, number=len(alike), examples=examples)
            warnings.append(LintWarning(check="duplicates", message=text, rows=ids))
    return warnings


def known_prompts(pairs: Sequence[Pair], prompts: Sequence[Prompt], spoken: Language) -> list[LintWarning]:
    """Which test prompts nearly ask a training question?"""
    ids, examples = leaked(list(questions_of(pairs).values()), prompts, spoken)
    text = message("similar_prompts", number=len(ids), all=len(prompts), examples=examples)
    return [LintWarning(check="leak", message=text, rows=ids)] if ids else []


def known_held_out(pairs: Sequence[Pair], held_out: Sequence[Question], spoken: Language) -> list[LintWarning]:
    """Which held-out questions nearly ask a training question?"""
    ids, examples = leaked(list(questions_of(pairs).values()), held_out, spoken)
    text = message("similar_held_out", number=len(ids), all=len(held_out), examples=examples)
    return [LintWarning(check="leak", message=text, rows=ids)] if ids else []


def leaked(
    questions: Sequence[str], rows: Sequence[Prompt], spoken: Language
) -> tuple[list[int], list[tuple[str, str]]]:
    """Return the ids of the rows that nearly ask a training question, and examples of both, the most alike first."""
    texts = [*questions, *(row.prompt for row in rows)]
    alike = [(a, b) for a, b in similar(texts, spoken) if a < len(questions) <= b]
    examples = list(dict.fromkeys((texts[b], texts[a]) for a, b in alike))
    return sorted({rows[b - len(questions)].id for _, b in alike}), examples[:SHOWN]


def similar(texts: Sequence[str], spoken: Language) -> list[tuple[int, int]]:
    """Return the pairs of texts that are alike, the most alike first."""
    cosines = (of_words(texts) if spoken.spaced else of_characters(texts)).tocoo()
    cells = zip(*cosines.coords, cosines.data, strict=True)
    alike = sorted((-value, int(a), int(b)) for a, b, value in cells if a < b and value > SIMILAR)
    return [(a, b) for _, a, b in alike]


def of_characters(texts: Sequence[str]) -> Any:
    """Return the cosines of texts by characters and pairs of them, a sparse matrix of shape (texts, texts)."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds, and not all who import this compare

    weights = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    return weights @ weights.T


def of_words(texts: Sequence[str]) -> Any:
    """Return the cosines of texts by parts of words, a sparse matrix of shape (texts, texts).

    Three to five letters within a word, so that *adaptation* resembles *adaptations*. What all texts hold, such as the
    name of the topic, weighs next to nothing: log((n + 1) / number of texts that hold it).
    """
    from scipy.sparse import diags
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    counts = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5), binary=True, dtype=float).fit_transform(texts)
    rarity = [math.log((len(texts) + 1) / number) for number in counts.sum(axis=0).A1]
    weights = normalize(counts @ diags(rarity))
    return weights @ weights.T


def order_confound(pairs: Sequence[Pair]) -> list[LintWarning]:
    """Are all pairs of one direction before all of the other?

    It does not matter where every question stands in both directions.
    """
    directions = [pair.preferred for pair in pairs]
    both_ways = len({(pair.id, pair.preferred) for pair in pairs}) == 2 * len(questions_of(pairs))
    turns = 0 if both_ways else sum(a != b for a, b in zip(directions, directions[1:], strict=False))
    if turns != 1:
        return []
    first = directions.index(directions[-1])
    text = message("order_is_direction", first=first, rest=len(pairs) - first)
    return [LintWarning(check="order", message=text, rows=list(dict.fromkeys(pair.id for pair in pairs[first:])))]


def mixed_scripts(pairs: Sequence[Pair]) -> list[LintWarning]:
    """Which rows hold texts in another script than most do, or simplified and traditional characters in one?"""
    texts = [*questions_of(pairs).items(), *((ident, text) for ident, _, text in labelled(pairs))]
    scripts = [(ident, script(text)) for ident, text in texts]
    usual = Counter(name for _, name in scripts if name != "either").most_common(1)
    ids = sorted({ident for ident, name in scripts if name != "either" and name != usual[0][0]})
    if not ids:
        return []
    text = message("other_script", number=len(ids), script=usual[0][0])
    return [LintWarning(check="script", message=text, rows=ids)]
