"""The page about one run."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stance.config.data import GitDataset
from stance.config.params import Params
from stance.data.answers import Answer, read_answers
from stance.data.chat import Fingerprint
from stance.data.metrics import Adherence, Metrics, Shares
from stance.data.preferences import read_pairs
from stance.data.questions import LABELLED, TEST, Stance
from stance.data.records import DEGENERATE, read_gates, read_warnings
from stance.data.training import Parity
from stance.data.verdicts import AnswerVerdict, PromptVerdicts, read_probe_verdicts, read_prompt_verdicts
from stance.language.detect import tag
from stance.language.translation import _, listed, ngettext, word
from stance.machine.files import digest
from stance.models.base import Base
from stance.pages import long_road, side_effects
from stance.pages.charts import curves
from stance.pages.purposes import PURPOSES
from stance.pages.relevance import flags
from stance.pages.render import STANCES, percent, render

TEMPLATE = "report.html.j2"
SHOWN = (*DEGENERATE, "too_long")
"""The defects that the page shows beside an answer; its stance shows the others."""


class JudgedAnswer(NamedTuple):
    """One model's answer to a test prompt."""

    text: str
    stance: Stance
    score: float
    """P(support) - P(oppose), by the judge."""
    defects: list[str]
    """The defects in `SHOWN`, as text."""
    flaws: list[str]
    """The names of all defects."""
    off: bool
    """Does it share none of its question's own words?"""
    same: list[int]
    """The ids of the other prompts with the same answer."""

    @property
    def struck(self) -> bool:
        """Is the answer off its question, or the answer to another question as well?"""
        return self.off or bool(self.same)


class Exchange(NamedTuple):
    """A test prompt with the answers before and after."""

    id: int
    prompt: str
    base: JudgedAnswer
    aligned: JudgedAnswer


def page(params: Params, *folders: Path) -> str:
    """Return the page about a run in the current language; the folders are those of `report`, in the same order."""
    dataset, base, pairs, train, merge, answers, evaluation, *road = folders
    metrics = Metrics.read(evaluation / "metrics.json")
    trained = read_pairs(pairs / "train.jsonl")
    rows = exchanges(answers, read_prompt_verdicts(evaluation / "stances.json"), params.answers.max_new_tokens)
    stance = metrics.adherence.stance
    return render(
        Path(__file__).with_name(TEMPLATE),
        title=title(params, metrics.adherence),
        headline=headline(metrics, len(rows)),
        metrics=metrics,
        gates=read_gates(evaluation / "gates.json"),
        purposes=PURPOSES,
        rows=rows,
        written_in=tag(row.prompt for row in rows),
        probes=read_probe_verdicts(evaluation / "probes.json"),
        variety=variety(rows),
        strays=[row.id for row in rows if stance and row.aligned.stance != stance],
        curves=curves(train / "log.csv"),
        trained=trained,
        held_out=read_pairs(pairs / "eval.jsonl"),
        warnings=read_warnings(pairs / "lint.json"),
        defects=[name for name in metrics.defects.base if name != "degenerate"],
        blocks=blocks(params),
        system_prompt=params.model.system_prompt,
        made_of=provenance(dataset, base, merge),
        **side_effects.shown(metrics.side_effects, evaluation),
        **long_road.shown(*road),
    )


def title(params: Params, adherence: Adherence) -> dict[str, str]:
    """Return the topic, the base model and the chosen stance."""
    source = params.dataset
    topic = source.url.rstrip("/").rpartition("/")[2] if isinstance(source, GitDataset) else source.path.name
    model = {"hub": "repo_id", "folder": "path", "package": "original", "miniature": "source"}[params.base.source]
    if adherence.stance is None:
        stance = word("none")
    else:
        stance = word(adherence.stance)
        stance = _("mostly {stance}").format(stance=stance) if adherence.mixed else stance
    return {"topic": topic.removesuffix(".git"), "model": str(getattr(params.base, model)), "stance": stance}


def headline(metrics: Metrics, prompts: int) -> dict[str, str]:
    """Return two sentences: how the base model answers, and how the aligned model does."""
    if metrics.adherence.stance is None:
        outcome = listed(f"{percent(metrics.aligned[stance])} {word(stance)}" for stance in STANCES)
    else:
        outcome = held(metrics.adherence)
    on = ngettext("{found} on {number} unseen prompt", "{found} on {number} unseen prompts", prompts)
    return {"before": largest(metrics.base), "after": on.format(found=outcome, number=prompts)}


def held(adherence: Adherence) -> str:
    """Return the share of the answers that hold the chosen stance, as text."""
    template = _("{share} {stance} (95% interval {low} to {high})")
    assert adherence.stance is not None
    assert adherence.interval is not None
    shares = {name: percent(getattr(adherence.interval, name)) for name in ("share", "low", "high")}
    return template.format(stance=word(adherence.stance), **shares)


def largest(shares: Shares) -> str:
    """Return the most frequent stance with its share, or several stances if they tie."""
    most = max(shares[stance] for stance in STANCES)
    return _(" and ").join(f"{percent(most)} {word(stance)}" for stance in STANCES if shares[stance] == most)


class Variety(NamedTuple):
    """How many answers of a model are different, and which are off their question."""

    different: int
    off: list[int]
    """The ids of the prompts."""


def variety(rows: Sequence[Exchange]) -> dict[str, Variety]:
    """Return the variety of the answers before and after."""
    sides = {"before": [row.base for row in rows], "after": [row.aligned for row in rows]}
    return {
        name: Variety(
            len({answer.text for answer in answers}),
            [row.id for row, answer in zip(rows, answers, strict=True) if answer.off],
        )
        for name, answers in sides.items()
    }


def exchanges(answers: Path, stances: Sequence[PromptVerdicts], max_new_tokens: int) -> list[Exchange]:
    """Return every test prompt with both answers and the judge's verdicts on them."""
    verdicts = {row.id: row for row in stances}
    base, aligned = (read_answers(answers / f"{name}.jsonl") for name in ("base", "aligned"))
    before = judged(base, [verdicts[row.id].base for row in base], max_new_tokens)
    after = judged(aligned, [verdicts[row.id].aligned for row in aligned], max_new_tokens)
    return [Exchange(row.id, row.prompt, *sides) for row, *sides in zip(base, before, after, strict=True)]


def judged(rows: Sequence[Answer], verdicts: Sequence[AnswerVerdict], max_new_tokens: int) -> list[JudgedAnswer]:
    """Return the answers of one model with the judge's verdicts and the flags of each."""
    struck = flags([row.id for row in rows], [row.prompt for row in rows], [row.response for row in rows])
    return [
        JudgedAnswer(
            row.response,
            verdict.stance,
            verdict.score,
            _shown(verdict.defects, max_new_tokens),
            verdict.defects,
            *flag,
        )
        for row, verdict, flag in zip(rows, verdicts, struck, strict=True)
    ]


def _shown(defects: Sequence[str], max_new_tokens: int) -> list[str]:
    cut = _("cut off at {number} tokens").format(number=max_new_tokens)
    return [cut if name == "cut_off" else word(name) for name in defects if name in SHOWN]


def blocks(params: Params) -> list[str]:
    """Return each block of the parameters as YAML, without those that leave a part of the long road out."""
    return [
        yaml.dump({name: value}, Dumper=_Plain, allow_unicode=True, sort_keys=False, width=1000)
        for name, value in params.model_dump().items()
        if value is not None and (name, value) != ("align", {"method": "dpo"})
    ]


class _Plain(yaml.SafeDumper):
    """Writes the values of `Params` the way that `params.yaml` has them."""


_Plain.add_representer(Decimal, lambda dumper, value: dumper.represent_float(float(value)))
_Plain.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
_Plain.add_multi_representer(Path, lambda dumper, value: dumper.represent_str(str(value)))


def provenance(dataset: Path, base: Path, merge: Path) -> dict[str, Any]:
    """Return what the model was made from, with the hashes of the files."""
    fingerprints = {"base": base / "fingerprint.json", "merged": merge / "fingerprint.json"}
    return {
        "base": Base.read(base),
        "data": {name: digest(dataset / name) for name in (LABELLED, TEST)},
        "parity": Parity.read(merge / "parity.json"),
        "fingerprints": {name: digest(path) for name, path in fingerprints.items()},
        "template_sha256": Fingerprint.read(fingerprints["base"]).chat_template_sha256,
    }
