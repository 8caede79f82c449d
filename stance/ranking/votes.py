"""Show, import and export votes, or let a model vote: `python -m stance votes ACTION`.

    python -m stance votes show
    python -m stance votes import FILE.json
    python -m stance votes export FILE --to label-studio|trl|kto
    python -m stance votes ask --model NAME
    python -m stance votes revise --model NAME

`docs/ranking.md` explains the actions and the figures.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stance.config.params import Params
from stance.data.metrics import CLASSIFIER
from stance.data.samples import SAMPLES, Samples, read_samples
from stance.data.votes import FILE, VOTES, Vote, append_vote, current, latest, read_rows, read_scores, read_votes
from stance.errors import InputError
from stance.evaluation.vote_agreement import (
    agreement,
    between_people,
    position_bias,
    require_agreement,
    with_oneself,
    with_people,
)
from stance.language.comparison import request_for
from stance.language.messages import sentence
from stance.machine.files import write_json, write_jsonl
from stance.ranking import label_studio
from stance.ranking.guideline import read_guideline
from stance.ranking.items import progress, rankable
from stance.ranking.pairs import known_votes, lint, pairs_of
from stance.ranking.rows import kto_rows, preference_rows

logger = logging.getLogger(__name__)

BASE = Path("data/base")
JUDGE = "stance judge"
"""The name by which the stance judge votes."""


def show(samples: list[Samples], votes: list[Vote]) -> None:
    """Print who has voted, how far voters agree, and what follows."""
    table = Table("who", "ranked", "skipped", "agreement with people")
    rows = rankable(samples)
    for name in dict.fromkeys(vote.by for vote in votes):
        done = progress(rows, votes, name)
        measured = agreement(with_people(votes, name))
        table.add_row(name, str(done.voted - done.skipped), str(done.skipped), str(measured or "-"))
    console = Console(width=120, markup=False, emoji=False)
    console.print(table)
    for label, compared in (("people", between_people(votes)), ("repeated questions", with_oneself(votes))):
        console.print(f"{label}: {agreement(compared) or 'nothing to compare yet'}", soft_wrap=True)
    if bias := position_bias(vote for vote in votes if not vote.is_model):
        console.print(f"the better answer was shown first in {bias.count} of {bias.total} pairs", soft_wrap=True)
    known = known_votes(current(votes), samples)
    system_prompt = Params.load().model.system_prompt
    pairs = pairs_of(known, samples, system_prompt)
    console.print(f"{len(pairs)} pairs follow from {len(known)} votes")
    for warning in lint(pairs, system_prompt):
        console.print(f"lint: {sentence(warning.message)}", soft_wrap=True)


def import_votes(path: Path, samples: list[Samples], votes: list[Vote]) -> None:
    """Append the votes in an export of Label Studio that are not in the file yet."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path} is no JSON; expected Label Studio's export in the format JSON") from None
    rows = label_studio.imported(tasks, samples, str(path))
    new = [vote for vote in rows if vote not in votes]
    for vote in new:
        append_vote(VOTES / FILE, vote)
    logger.info("%d votes imported, %d were there already", len(new), len(rows) - len(new))


def export_votes(path: Path, form: str, samples: list[Samples], votes: list[Vote]) -> None:
    """Write the votes to a file in another format. Votes on answers that are not among the samples are left out."""
    if path.resolve() in {(VOTES / FILE).resolve(), SAMPLES.resolve()}:
        raise InputError(f"{path} is a file of this project; name another one to export to")
    if form == "label-studio":
        known = known_votes(latest(votes), samples)
        write_json(path, label_studio.exported(known, samples))
        logger.info("%d votes exported, %d left out", len(known), len(latest(votes)) - len(known))
        return
    counted, known = current(votes), known_votes(current(votes), samples)
    rows = rows_for_training(form, known, samples)
    if not rows:
        raise InputError(f"nothing follows from the {len(known)} votes on these samples; rank more with `make rank`")
    write_jsonl(path, rows)
    logger.info("%d rows from %d votes, %d votes left out", len(rows), len(known), len(counted) - len(known))


def rows_for_training(form: str, votes: list[Vote], samples: list[Samples]) -> list[dict[str, Any]]:
    """Return the rows of a format; revisions give preference rows, too."""
    system_prompt = Params.load().model.system_prompt
    if form == "kto":
        return kto_rows(votes, samples, system_prompt)
    from stance.ranking import revisions  # brings OpenAI's client

    revised = read_rows(VOTES / revisions.FILE, revisions.Revision)
    return preference_rows(votes, samples, system_prompt) + revisions.revision_rows(revised, samples, system_prompt)


def ask(options: argparse.Namespace, samples: list[Samples]) -> None:
    """Let a model vote."""
    from stance.client.endpoint import find_endpoint
    from stance.ranking import model_votes

    rows = rankable(samples, read_scores(VOTES / "scores.jsonl"))
    guideline = read_guideline(VOTES, rows)
    if options.judge:
        from stance.evaluation.fitted import read_classifier

        name, reason = options.name or JUDGE, f"prefers {options.prefer}"
        ranker = model_votes.judge_ranker(read_classifier(CLASSIFIER, BASE, "cpu"), options.prefer)
    else:
        name, reason = options.name or options.model, guideline
        request = request_for(row.prompt for row in rows)
        ranker = model_votes.endpoint_ranker(find_endpoint(), options.model, request, guideline)
    bound = model_votes.Bound(options.min_kappa, options.min_shared)
    logger.info("%d new votes by %s", model_votes.vote(rows, VOTES / FILE, name, ranker, reason, bound), name)


def revise(options: argparse.Namespace, samples: list[Samples], votes: list[Vote]) -> None:
    """Let a model that agrees with people revise the first answer to every question."""
    from stance.client.endpoint import find_endpoint
    from stance.ranking import revisions

    name = options.name or options.model
    require_agreement(votes, name, options.min_kappa, options.min_shared)
    request = request_for(row.prompt for row in samples)
    new = revisions.revise(
        samples, VOTES / revisions.FILE, find_endpoint(), options.model, name, request, read_guideline(VOTES, samples)
    )
    logger.info("%d new revisions by %s", new, name)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stance votes", description="Show, import or export votes, or let a model vote."
    )
    parser.add_argument(
        "action", choices=("show", "import", "export", "ask", "revise"),
        help="show: voters, agreement and pairs; import: an export of Label Studio; export: to another format; ask: a "
        "model ranks; revise: a model writes better answers",
    )  # fmt: skip
    parser.add_argument("file", nargs="?", type=Path, help="the file to import or to export to")
    parser.add_argument("--to", choices=("label-studio", "trl", "kto"), help="the format of an export")
    parser.add_argument("--model", help="the model behind the endpoint that OPENAI_BASE_URL names, or `make serve`")
    parser.add_argument("--judge", action="store_true", help="ask the stance judge instead of a model")
    parser.add_argument(
        "--prefer", choices=("support", "oppose"), default="support",
        help="the side that the stance judge prefers (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--name", help="the name that is saved with the votes (default: the name of the model)")
    parser.add_argument(
        "--min-kappa", type=float, default=0.6,
        help="Cohen's kappa with people that a model needs to vote alone (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min-shared", type=int, default=20,
        help="questions that the model and people must have ranked before (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args()
    _require_options(parser, options)
    return options


def _require_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse a command line that lacks what its action needs."""
    if (options.file is None) == (options.action in ("import", "export")):
        parser.error(f"{options.action} needs a file" if options.file is None else f"{options.action} takes no file")
    if options.action == "export" and not options.to:
        parser.error("export needs --to with one of label-studio, trl, kto")
    if options.action == "ask" and bool(options.model) == options.judge:
        parser.error("ask needs --model NAME or --judge")
    if options.action == "revise" and not options.model:
        parser.error("revise needs --model NAME")
    if not -1 <= options.min_kappa <= 1 or options.min_shared < 1:
        parser.error("expected --min-kappa between -1 and 1, and --min-shared of 1 or more")


def main() -> None:
    """Run the action: `python -m stance votes ACTION`."""
    options = parse_arguments()
    samples, votes = read_samples(SAMPLES), read_votes(VOTES / FILE)
    if options.action == "import":
        import_votes(options.file, samples, votes)
    elif options.action == "export":
        export_votes(options.file, options.to, samples, votes)
    elif options.action == "ask":
        ask(options, samples)
    elif options.action == "revise":
        revise(options, samples, votes)
    else:
        show(samples, votes)
