"""What a comparison shows of adapters that were tried in one engine (`make sweep MERGE=best`)."""

from collections.abc import Sequence

from stance.data.trial import Trial
from stance.language.translation import _
from stance.pages.comparison_rows import Row, of_training, with_interval
from stance.pages.render import STANCES


def titled(run: Row) -> str:
    """Return the name of a run, and that its figures are those of its adapter, where they are."""
    return _("{run} (adapter)").format(run=run.name) if run.trial and run.state == "trained" else run.name


def cells(run: Row, titles: Sequence[str]) -> dict[str, str]:
    """Return the figures of a run that was tried and not merged, as text, by title; empty for another run."""
    if run.trial is None or run.state != "trained":
        return {}
    shares = {stance: f"{run.trial.aligned[stance]:.0%}" for stance in STANCES}
    held = with_interval(run.trial.adherence.interval)
    return {**dict.fromkeys(titles, "–"), **shares, "adherence": held, **of_training(run)}


def notes(rows: Sequence[Row]) -> list[str]:
    """Return sentences about the trials of a grid, none if there are none."""
    sentences = []
    if any(run.trial and run.state == "trained" for run in rows):
        sentences.append(
            _(
                "A run with the word adapter was not merged. One engine answered with the weights of each such adapter "
                "in turn. A dash stands for what only a whole run measures: sweep without MERGE=best."
            )
        )
    sentences += [against_merged(run.name, run.trial) for run in rows if run.trial and run.trial.merged]
    if any(run.trial and not run.trial.within for run in rows):
        sentences.append(_("That is more than noise, so the merged models may rank differently: sweep with MERGE=all."))
    return sentences


def against_merged(name: str, trial: Trial) -> str:
    """Return how far a merged model is from the adapter that was tried, as a sentence."""
    assert trial.merged is not None
    assert trial.bounds is not None
    text = _(
        "The merged model of {run} differs from the adapter that was tried by {mean} nats per token on average, and by "
        "{worst} at the worst token. Noise is up to {bound} and {limit}."
    )
    return text.format(
        run=name,
        mean=f"{trial.merged.mean:.2g}",
        worst=f"{trial.merged.worst:.2g}",
        bound=f"{trial.bounds.mean:.2g}",
        limit=f"{trial.bounds.worst:.2g}",
    )
