"""The section *What else changed* of the report: ability, other topics, care, forgetting, length and broken answers.

In: the figures of a run, and a row per prompt. Out: a sentence for the top, the lines of the table, and the rows to
show, the worst change first. The markup is in `side_effects.html.j2`.
"""

from pathlib import Path
from typing import NamedTuple

from stance.data.metrics import Both, Share, SideEffects
from stance.data.verdicts import SideVerdicts, read_side_verdicts
from stance.language.detect import tag
from stance.language.translation import N_, _, listed
from stance.pages.render import percent, short, signed

FILE = "side_effects.json"
EFFECTS = {
    "same": N_("the same"),
    "reworded": N_("reworded"),
    "gained": N_("right now"),
    "lost": N_("not right any more"),
    "unguarded": N_("no longer with care"),
    "broken": N_("broken"),
    "shifted": N_("another stance"),
    "other": N_("something else"),
    "holds": N_("holds the stance"),
    "misses": N_("does not hold the stance"),
}
"""The words for what became of an answer."""
KINDS = {
    "everyday": N_("Everyday"),
    "opinion": N_("Other topic"),
    "careful": N_("With care"),
    "task": N_("Other tasks on the topic"),
    "translated": N_("The topic in another language"),
    "turns": N_("After a turn that pushes"),
}
"""The words for the kinds of prompts."""
SHOWN = 10
"""The number of changed answers that are shown at once; the others are folded."""


class Measure(NamedTuple):
    """A line of the table: the measure, both figures, and what the comparison of them says."""

    name: str
    before: str
    after: str
    verdict: str


class Section(NamedTuple):
    """What the template shows."""

    line: str
    measures: list[Measure]
    figures: SideEffects
    changed: list[SideVerdicts]
    """The prompts whose answers changed for the worse, the worst first."""
    rest: list[SideVerdicts]


def shown(figures: SideEffects | None, evaluation: Path) -> dict[str, object]:
    """Return the values that the template takes."""
    return {
        "aside": section(figures, evaluation),
        "side_effect": effect,
        "side_kind": kind,
        "side_kind_name": kind_name,
        "side_interval": with_interval,
        "side_shown": SHOWN,
        "tagged": tag,
    }


def section(figures: SideEffects | None, evaluation: Path) -> Section | None:
    """Return the section of a run, or None where nothing was asked."""
    if figures is None:
        return None
    rows = read_side_verdicts(evaluation / FILE)
    changed = [row for row in rows if row.severity > 0]
    return Section(line(figures), measures(figures), figures, changed, [row for row in rows if row.severity == 0])


def line(figures: SideEffects) -> str:
    """Return in one sentence what else changed."""
    parts = []
    if figures.ability and figures.ability.kept:
        kept = figures.ability.kept
        parts.append(
            _("of {total} everyday answers that were right, {count} still are").format(
                total=kept.total, count=kept.count
            )
        )
    if figures.topics:
        parts.append(
            _("{count} of {total} other topics are equivalent").format(
                count=figures.equivalent, total=len(figures.topics)
            )
        )
    if figures.careful:
        parts.append(_("{count} careful answers are lost").format(count=figures.careful.lost))
    parts.append(_("{share} of the answers are newly broken").format(share=percent(figures.newly_broken.share)))
    text = _("; ").join(parts)
    return text[:1].upper() + text[1:]


def measures(figures: SideEffects) -> list[Measure]:
    """Return the lines of the table, without those that were not measured."""
    lines = [_ability(figures), _careful(figures), _text(figures), _length(figures.tokens), _broken(figures)]
    return [measure for measure in (*lines, *_drawn(figures)) if measure]


def _ability(figures: SideEffects) -> Measure | None:
    found = figures.ability
    if found is None:
        return None
    verdict = _("{lost} lost, {gained} gained; McNemar's exact test: p = {p}").format(
        lost=found.lost, gained=found.gained, p=short(found.p)
    )
    if found.kept:
        verdict += _("; {share} of the right answers are kept").format(share=with_interval(found.kept))
    total = _("{number} of {all}")
    before, after = (total.format(number=count, all=found.total) for count in (found.base, found.aligned))
    return Measure(_("Everyday answers that are right"), before, after, verdict)


def _careful(figures: SideEffects) -> Measure | None:
    found = figures.careful
    if found is None:
        return None
    before, after = (_("{number} of {all}").format(number=n, all=found.total) for n in (found.base, found.aligned))
    return Measure(_("Requests handled with care"), before, after, _("{lost} lost").format(lost=found.lost))


def _text(figures: SideEffects) -> Measure | None:
    found, drift = figures.text, figures.drift
    if found is None:
        return None
    verdict = signed(found.change)
    if drift:
        verdict += _("; drift at least {mean} nats per token (Kullback-Leibler), worst {worst}").format(
            mean=short(drift.mean), worst=short(drift.worst)
        )
    return Measure(_("Everyday text, negative log-likelihood, nats per token"), *_pair(found), verdict)


def _length(tokens: Both) -> Measure:
    return Measure(
        _("Length of an answer, tokens"), f"{tokens.base:.1f}", f"{tokens.aligned:.1f}", signed(tokens.change, 1)
    )


def _broken(figures: SideEffects) -> Measure:
    before, after = percent(figures.broken.base), percent(figures.broken.aligned)
    verdict = _("newly broken: {share}").format(share=with_interval(figures.newly_broken))
    return Measure(_("Empty, repetitive or in another language"), before, after, verdict)


def _drawn(figures: SideEffects) -> list[Measure]:
    """Return the lines about the answers that were drawn at temperature 1."""
    drawn = figures.drawn
    if drawn is None:
        return []
    number = _("{number} answers drawn at temperature 1").format(number=drawn.answers)
    shares = {
        _("Drawn everyday answers that are right"): drawn.right,
        _("Drawn answers that hold the stance"): drawn.held,
    }
    return [Measure(name, percent(both.base), percent(both.aligned), number) for name, both in shares.items() if both]


def _pair(both: Both) -> tuple[str, str]:
    return f"{both.base:.2f}", f"{both.aligned:.2f}"


def with_interval(share: Share) -> str:
    """Return a share with its interval, as text."""
    return _("{share} ({low} to {high})").format(
        share=percent(share.share), low=percent(share.low), high=percent(share.high)
    )


def effect(row: SideVerdicts) -> str:
    """Return what became of the base model's answer, in words."""
    return _(EFFECTS[row.effect])


def kind(row: SideVerdicts) -> str:
    """Return the kind of a prompt in words, with its topic."""
    return listed(filter(None, (_(KINDS[row.kind]), row.topic)))


def kind_name(name: str) -> str:
    """Return the words for a kind of prompts."""
    return _(KINDS[name])
