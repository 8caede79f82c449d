"""One page about one run, in each language: what was wanted, what came of it, and what made the model.

A page is a single file that fetches nothing: style and curves are in it. It says neither when nor where it was made,
so the same inputs give the same bytes. Markup is in `report.html.j2`, which escapes whatever it is given; the
values that it shows are made here.
"""

import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType

from tasks.errors import run
from tasks.gates import DEGENERATE, Gate, gates_of
from tasks.hub import digest
from tasks.jsonfile import read_json, read_jsonl
from tasks.language import ENGLISH, LANGUAGES, N_, _, listed, ngettext, speaking, spoken, word
from tasks.lint import Warned, lint
from tasks.params import GitDataset, Params
from tasks.questions import LABELLED, TEST, Stance, read_prompts, read_questions
from tasks.weights import Base

STANCES = get_args(Stance)
TEMPLATE, LINKS, SHEET = "report.html.j2", "languages.html.j2", "page.css"
CATALOGUE = Path(__file__).with_name("zh_TW.po")
SHOWN = (*DEGENERATE, "too_long")
"""Defects that stand at an answer; its stance says the rest."""

CURVES = (
    (N_("Loss"), ("loss",)),
    (N_("Reward margin"), ("rewards/margins",)),
    (N_("Reward accuracy"), ("rewards/accuracies",)),
    (N_("Log-probability of the answers"), ("logps/chosen", "logps/rejected")),
)
LINES = (("#1b78b8", "-"), ("#d2600c", "--"))
FEW = 60
"""Up to so many steps each has a dot."""
STYLE: dict[RcKeyType, Any] = {
    "axes.edgecolor": "#8a93a0",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.figsize": (4.0, 1.9),
    "figure.subplot.bottom": 0.12,
    "figure.subplot.left": 0.13,
    "figure.subplot.right": 0.985,
    "figure.subplot.top": 0.96,
    "font.size": 8,
    "grid.color": "#8a93a0",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 2.5,
    "svg.fonttype": "none",  # text stays text: it takes the page's font and colour
    "xtick.color": "#8a93a0",
    "ytick.color": "#8a93a0",
}
NOT_IN_HTML = {"Creator": None, "Date": None, "Format": None, "Type": None}

Json = Mapping[str, Any]


class Answer(NamedTuple):
    """One model's answer to a test prompt."""

    text: str
    stance: Stance
    score: float
    """P(support) - P(oppose), by the judge."""
    defects: list[str]
    """In words, those of style left out."""
    flaws: list[str]
    """By name, all of them."""


class Exchange(NamedTuple):
    """A test prompt with the answers before and after."""

    id: int
    prompt: str
    base: Answer
    aligned: Answer


class Pair(NamedTuple):
    """A question with the answer that training preferred and the one it did not."""

    id: int
    question: str
    preferred: str
    rejected: str
    direction: Stance


class Curve(NamedTuple):
    """A figure over the steps of the training."""

    name: str
    svg: Markup
    label: str
    """Of the axis below it."""
    summary: str
    """Where it began and ended, for those who cannot see the figure."""


def report(
    params: Params,
    dataset: Path,
    base: Path,
    pairs: Path,
    train: Path,
    merge: Path,
    answers: Path,
    evaluation: Path,
    out: Path,
) -> None:
    """Write the page about a run to `out`, in each language.

    Args:
        params: All of them: the page shows what the run was made with.
        dataset: `data/dataset`, for the hashes of its two files, and for what a linter says of them.
        base: `data/base`, for what the base model is.
        pairs: `data/pairs`, with what the linter said of them.
        train: `data/train`, for the log of the training and whether it was stopped.
        merge: `data/merge`, for parity and fingerprint.
        answers: `data/answers`.
        evaluation: `data/evaluation`, for metrics, gates and stances.
        out: Receives `index.html`, in English, and `index.zh-TW.html`.
    """
    out.mkdir(parents=True, exist_ok=True)
    folders = (dataset, base, pairs, train, merge, answers, evaluation)
    for language in LANGUAGES:
        with speaking(language, CATALOGUE):
            text = page(params, *folders)
        (out / language.page).write_text(text, encoding="utf-8")


def page(params: Params, *folders: Path) -> str:
    """Return the page about a run in the language of now; the folders are those of `report`, in its order."""
    dataset, base, pairs, train, merge, answers, evaluation = folders
    metrics = read_json(evaluation / "metrics.json")
    trained = read_pairs(pairs / "train.jsonl")
    rows = exchanges(answers, read_json(evaluation / "stances.json"), params.answers.max_new_tokens)
    stance = metrics["adherence"]["stance"]
    return render(
        Path(__file__).with_name(TEMPLATE),
        title=title(params, metrics["adherence"]),
        headline=headline(metrics, len(rows)),
        metrics=metrics,
        gates=verdicts(params, metrics, base, train, merge, evaluation),
        rows=rows,
        probes=read_json(evaluation / "probes.json"),
        strays=[row.id for row in rows if stance and row.aligned.stance != stance],
        curves=curves(train / "log.csv"),
        trained=trained,
        held_out=read_pairs(pairs / "eval.jsonl"),
        warned=warnings(params.model.system_prompt, trained, dataset, pairs),
        defects=[name for name in metrics["defects"]["base"] if name != "degenerate"],
        blocks=blocks(params),
        system_prompt=params.model.system_prompt,
        made_of=provenance(dataset, base, merge),
    )


def verdicts(params: Params, metrics: Json, base: Path, train: Path, merge: Path, evaluation: Path) -> list[Gate]:
    """Return the verdicts that `gates.json` has in English, made again where another language is spoken."""
    if spoken() == ENGLISH:
        return [Gate(**gate) for gate in read_json(evaluation / "gates.json")]
    return gates_of(params, metrics, base, train, merge)


def warnings(system_prompt: str, trained: Sequence[Pair], dataset: Path, pairs: Path) -> list[Warned]:
    """Return the warnings that `lint.json` has in English, made again where another language is spoken."""
    if spoken() == ENGLISH:
        return [Warned(**row) for row in read_json(pairs / "lint.json")]
    questions = {question.id: question for question in read_questions(dataset)}
    used = [questions[ident] for ident in dict.fromkeys(pair.id for pair in trained)]
    own = {
        pair.id: pair.rejected
        for pair in trained
        if pair.rejected not in (questions[pair.id].support, questions[pair.id].oppose)
    }
    return lint(used, read_prompts(dataset), [pair.direction == "support" for pair in trained], system_prompt, own)


def title(params: Params, adherence: Json) -> dict[str, str]:
    """Return topic, base model and the stance that was chosen."""
    source = params.dataset
    topic = source.url.rstrip("/").rpartition("/")[2] if isinstance(source, GitDataset) else source.path.name
    model = {"hub": "repo_id", "folder": "path", "miniature": "source"}[params.base.source]
    if adherence["stance"] is None:
        stance = word("none")
    else:
        stance = word(adherence["stance"])
        stance = _("mostly {stance}").format(stance=stance) if adherence["mixed"] else stance
    return {"topic": topic.removesuffix(".git"), "model": str(getattr(params.base, model)), "stance": stance}


def headline(metrics: Json, prompts: int) -> dict[str, str]:
    """Return in a sentence each how the base answered and how the aligned model answers."""
    after = metrics["adherence"]
    if after["stance"] is None:
        found = listed(f"{percent(metrics['aligned'][stance])} {word(stance)}" for stance in STANCES)
    else:
        found = held(after)
    on = ngettext("{found} on {number} unseen prompt", "{found} on {number} unseen prompts", prompts)
    return {"before": largest(metrics["base"]), "after": on.format(found=found, number=prompts)}


def held(adherence: Json) -> str:
    """Return how many answers hold the stance that was chosen."""
    found = _("{share} {stance} (95% interval {low} to {high})")
    shares = {name: percent(adherence[name]) for name in ("share", "low", "high")}
    return found.format(stance=word(adherence["stance"]), **shares)


def largest(shares: Mapping[str, float]) -> str:
    """Return the stance that most answers take, or those that tie for it, with its share."""
    most = max(shares[stance] for stance in STANCES)
    return _(" and ").join(f"{percent(most)} {word(stance)}" for stance in STANCES if shares[stance] == most)


def exchanges(answers: Path, stances: Sequence[Json], max_new_tokens: int) -> list[Exchange]:
    """Return every test prompt with both answers and what the judge made of them."""
    verdicts = {row["id"]: row for row in stances}
    base, aligned = (read_jsonl(answers / f"{name}.jsonl") for name in ("base", "aligned"))
    return [
        Exchange(
            before["id"],
            before["prompt"],
            _answer(before, verdicts[before["id"]]["base"], max_new_tokens),
            _answer(after, verdicts[after["id"]]["aligned"], max_new_tokens),
        )
        for before, after in zip(base, aligned, strict=True)
    ]


def _answer(row: Json, verdict: Json, max_new_tokens: int) -> Answer:
    cut = _("cut off at {number} tokens").format(number=max_new_tokens)
    named = [cut if name == "cut_off" else word(name) for name in verdict["defects"] if name in SHOWN]
    return Answer(row["response"], verdict["stance"], verdict["score"], named, verdict["defects"])


def read_pairs(path: Path) -> list[Pair]:
    """Return the preference pairs in a file."""
    return [
        Pair(
            row["id"],
            row["prompt"][-1]["content"],
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
            row["preferred"],
        )
        for row in read_jsonl(path)
    ]


def curves(log: Path) -> list[Curve]:
    """Draw the columns of the training's log that tell how it went."""
    with log.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows]
    return [
        curve(_(name), steps, {column: [float(row[column]) for row in rows] for column in columns})
        for name, columns in CURVES
    ]


def curve(name: str, at: Sequence[float], series: Mapping[str, Sequence[float]], label: str | None = None) -> Curve:
    """Draw one or two columns over the steps, or over whatever the label says."""
    with rc_context():
        rcdefaults()  # whatever a matplotlibrc on this machine says
        rcParams.update(STYLE)
        # Clip paths and markers are named by hash, and a page draws each column once.
        rcParams["svg.hashsalt"] = " ".join(series)
        figure = Figure()
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(MaxNLocator(integer=label is None))
        for (column, values), (colour, dashes) in zip(series.items(), LINES, strict=False):
            marker = "o" if len(at) <= FEW else ""
            axes.plot(at, values, color=colour, linestyle=dashes, marker=marker, label=column.rpartition("/")[2])
        if len(series) > 1:
            axes.legend()
        svg = _svg(figure)
    return Curve(name, svg, label or _("step"), summary(at, series, label))


def summary(at: Sequence[float], series: Mapping[str, Sequence[float]], label: str | None) -> str:
    """Return in words where each column begins and ends."""
    ends = [
        _("{column} from {first} to {last}").format(column=column, first=short(values[0]), last=short(values[-1]))
        for column, values in series.items()
    ]
    over = _("steps {first:g} to {last:g}") if label is None else _("{label} {first:g} to {last:g}")
    over = over.format(label=label, first=at[0], last=at[-1])
    return _("{one}, {other}").format(one=listed(ends), other=over)


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=NOT_IN_HTML)
    text = buffer.getvalue()
    # Matplotlib numbers its groups from 1 in every figure, and a page has room for each id only once.
    return Markup(re.sub(r' id="[^"]*_\d+"', "", text[text.index("<svg") :]))


def blocks(params: Params) -> list[str]:
    """Return each block of the parameters as YAML."""
    return [
        yaml.dump({name: value}, Dumper=_Plain, allow_unicode=True, sort_keys=False, width=1000)
        for name, value in params.model_dump().items()
    ]


class _Plain(yaml.SafeDumper):
    """Writes the values of `Params` the way that `params.yaml` has them."""


_Plain.add_representer(Decimal, lambda dumper, value: dumper.represent_float(float(value)))
_Plain.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
_Plain.add_multi_representer(Path, lambda dumper, value: dumper.represent_str(str(value)))


def provenance(dataset: Path, base: Path, merge: Path) -> dict[str, Any]:
    """Return what the model was made of, down to hashes."""
    fingerprints = {"base": base / "fingerprint.json", "merged": merge / "fingerprint.json"}
    return {
        "base": Base.read(base),
        "data": {name: digest(dataset / name) for name in (LABELLED, TEST)},
        "parity": read_json(merge / "parity.json"),
        "fingerprints": {name: digest(path) for name, path in fingerprints.items()},
        "template_sha256": read_json(fingerprints["base"])["chat_template_sha256"],
    }


def render(template: Path, **values: object) -> str:
    """Fill a template in the language of now; a name that it uses and that is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.install_gettext_callables(_, ngettext, newstyle=True)  # type: ignore[attr-defined]
    environment.filters |= {"percent": percent, "signed": signed, "word": word, "listed": listed, "translated": _}
    environment.globals |= {"language": spoken(), "languages": LANGUAGES, "links": LINKS, "sheet": SHEET}
    return environment.get_template(template.name).render(values, stances=STANCES)


def percent(share: float) -> str:
    """Return a share as people read it: 0.95 as 95%."""
    return f"{share:.0%}"


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign."""
    return _with_minus(f"{value:+.{digits}f}")


def short(value: float) -> str:
    """Return a number in three significant digits."""
    return _with_minus(f"{value:.3g}")


def _with_minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")


def main() -> None:
    """Run the stage: `python -m tasks.report DATASET BASE PAIRS TRAIN MERGE ANSWERS EVALUATION OUT`."""
    report(Params.load(), *map(Path, sys.argv[1:]))


if __name__ == "__main__":
    run(main)
