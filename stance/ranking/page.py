"""The page of `make rank`. Streamlit runs this file from top to bottom after every input.

A voter sees a question and its answers in a random order, without the names of models, and gives them places. Every
vote is on disk before the next question is shown. The page is in English or in Traditional Chinese; at first in the
browser's language.

`ballot.js` is the part that reacts to keys, so that no key waits for the server. Answers are shown as plain text.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamlit as st
from pydantic import ValidationError

from stance.config.params import Params
from stance.data.samples import SAMPLES, Samples, read_samples
from stance.data.votes import FILE, VOTES, Vote, append_vote, current, latest, read_scores, read_votes
from stance.errors import InputError
from stance.evaluation.vote_agreement import (
    Agreement,
    agreement,
    between_people,
    position_bias,
    with_oneself,
    with_people,
)
from stance.language.messages import sentence
from stance.language.translation import CHINESE, ENGLISH, LANGUAGES, N_, Language, _, speaking
from stance.pages.render import CATALOGUE, percent
from stance.ranking.guideline import read_guideline
from stance.ranking.items import Item, item_of, next_item, own_votes, progress, rankable
from stance.ranking.pairs import known_votes, lint, pairs_of

TITLE = N_("Rank answers")
FOLDER = Path(__file__).parent
SHOWN = 30  # pairs in the preview; Streamlit would show a string here on the page
WORDS = {  # on the ballot, where ballot.js shows them
    "reason": N_("Reason, in one line (optional)"),
    "tie": N_("Tie"),
    "all_bad": N_("All bad"),
    "skip": N_("Skip"),
    "undo": N_("Undo"),
    "save": N_("Save"),
    "place": N_("Place {rank}"),
    "bad": N_("Bad"),
    "begin": N_("Choose the best answer, then the next one: by its number, or by a click."),
    "rank_first": N_("Nothing is ranked yet: choose the best answer first."),
    "joins": N_("Tie: the next answer that you choose shares the last place."),
    "pairs": N_("Pairs that follow:"),
    "no_pairs": N_("No pairs follow from this."),
    "saving": N_("Saving…"),
}


def read_rows(votes: Path) -> list[Samples]:
    """Return the questions to rank, in their order.

    Raises:
        InputError: There are no samples, or no question has two answers.
    """
    changed = SAMPLES.stat().st_mtime_ns if SAMPLES.exists() else 0
    rows = rankable(st.cache_data(show_spinner=False)(_read)(SAMPLES, changed), read_scores(votes / "scores.jsonl"))
    if not rows:
        raise InputError(
            f"no question in {SAMPLES} has two answers to rank; raise sample.draws or sample.temperature, and run "
            "`dvc repro sample`"
        )
    return rows


def _read(path: Path, changed: int) -> list[Samples]:
    return read_samples(path)


def chosen_language() -> Language:
    """Return the language of the page: the browser's at first, then the one chosen in the side bar."""
    first = CHINESE if (st.context.locale or "").lower().startswith("zh") else ENGLISH
    names = {language.name: language for language in LANGUAGES}
    with st.sidebar:
        name = st.radio("Language · 語言", list(names), index=list(names.values()).index(first), horizontal=True)
    return names[name]


def ask_name(votes: Sequence[Vote]) -> None:
    """Ask for the voter's name. It is kept in the page's address, so that a page that is loaded again knows it."""
    st.markdown(
        _("You see a question and several answers to it. Put the answers into order. Every vote is saved at once.")
    )
    with st.form("name"):
        name = st.text_input(_("Your name"), max_chars=40, help=_("It is saved with every vote.")).strip()
        entered = st.form_submit_button(_("Begin"), type="primary")
    if entered and name in {vote.by for vote in votes if vote.is_model}:
        st.error(_("A model votes under this name; choose another one."))
    elif entered and name:
        st.query_params["voter"] = name
        st.rerun()


def item_now(rows: Sequence[Samples], votes: Sequence[Vote], voter: str) -> Item | None:
    """Return what the voter ranks now: the next item, or an earlier one after undo."""
    own, back = own_votes(rows, votes, voter), st.session_state.get("back", 0)
    if 0 < back <= len(own):
        return item_of(own[-back], rows)
    return next_item(rows, votes, voter, again=st.session_state.get("again", False))


def vote_of(ballot: dict[str, Any], item: Item, voter: str) -> Vote:
    """Return the vote that a ballot says."""
    return Vote(
        prompt_id=item.id,
        answers=[answer.sha256 for answer in item.answers],
        ranks=ballot["ranks"],
        by=voter,
        at=datetime.now(UTC),
        seed=item.seed,
        reason=" ".join(str(ballot["reason"]).split()),
        all_bad=ballot["all_bad"],
        skipped=ballot["skipped"],
        seconds=ballot["seconds"],
    )


def save(item: Item, voter: str) -> None:
    """Write the vote that the ballot has sent. A ballot on another item than the one that is shown is passed over."""
    ballot = st.session_state["ballot"].ballot
    if not ballot or ballot.get("key") != item.key:
        return
    try:
        append_vote(VOTES / FILE, vote_of(ballot, item, voter))
    except (OSError, ValidationError, LookupError, TypeError) as error:
        st.session_state.problem = str(error)
        return
    finally:
        st.session_state.attempt = st.session_state.get("attempt", 0) + 1
    st.session_state.back = 0


def go_back() -> None:
    """Open the vote before the one that is shown."""
    st.session_state.back = st.session_state.get("back", 0) + 1


def ballot(item: Item, voter: str, *, can_go_back: bool, failed: bool) -> None:
    """Show the ballot of an item. If the last vote has failed, the ballot stays as it is."""
    mount = st.components.v2.component(
        "ballot",
        html='<div class="ballot"></div>',
        css=(FOLDER / "ballot.css").read_text(encoding="utf-8"),
        js=(FOLDER / "ballot.js").read_text(encoding="utf-8"),
    )
    vote = item.vote
    data = {
        "key": item.key,
        "prompt": item.prompt,
        "answers": [answer.text for answer in item.answers],
        "ranks": vote.ranks if vote and not vote.all_bad else [],
        "all_bad": bool(vote and vote.all_bad),
        "reason": vote.reason if vote else "",
        "can_go_back": can_go_back,
        "words": {name: _(text) for name, text in WORDS.items()},
        "attempt": st.session_state.get("attempt", 0),
        "failed": failed,
    }
    mount(key="ballot", data=data, on_ballot_change=lambda: save(item, voter), on_back_change=go_back)


def rank(rows: Sequence[Samples], votes: Sequence[Vote], voter: str) -> None:
    """Show how far the voter is, and the item to rank."""
    done = progress(rows, votes, voter)
    st.progress(min(done.voted / done.total, 1.0), _("{voted} of {total}").format(voted=done.voted, total=done.total))
    if problem := st.session_state.pop("problem", None):
        st.error(_("The vote was not saved: {problem}").format(problem=problem))
    own = own_votes(rows, votes, voter)
    item = item_now(rows, votes, voter)
    if item:
        if st.session_state.get("back"):
            st.caption(_("This is an earlier vote of yours; Save replaces it."))
        ballot(item, voter, can_go_back=len(own) > st.session_state.get("back", 0), failed=bool(problem))
        return
    st.success(_("Everything is ranked. Thank you!"))
    if done.skipped:
        st.button(
            _("Rank the skipped ones ({number})").format(number=done.skipped),
            on_click=lambda: st.session_state.update(again=True),
        )
    st.button(_("Change the last vote"), on_click=go_back)


def results(rows: Sequence[Samples], votes: Sequence[Vote], model_prompt: str) -> None:
    """Show who has voted, how far voters agree, and the pairs that follow."""
    voters = {vote.by: vote.is_model for vote in votes}
    people = [name for name, is_model in voters.items() if not is_model]
    table = [voter_row(rows, votes, name) for name in people]
    st.table([row for row in table if row])
    st.table([
        {_("What"): _("People among each other"), **figures(agreement(between_people(votes)))},
        {_("What"): _("People with themselves, on repeated questions"), **figures(agreement(with_oneself(votes)))},
        *(
            {_("What"): _("{model} with people").format(model=name), **figures(agreement(with_people(votes, name)))}
            for name, is_model in voters.items()
            if is_model
        ),
    ])  # fmt: skip
    if bias := position_bias(vote for vote in votes if not vote.is_model):
        st.markdown(
            _(
                "The better answer was shown first in {share} of {total} pairs (95% interval {low} to {high}). Without "
                "a position bias it is about half."
            ).format(share=percent(bias.share), total=bias.total, low=percent(bias.low), high=percent(bias.high))
        )
    preview(rows, votes, model_prompt)


def voter_row(rows: Sequence[Samples], votes: Sequence[Vote], name: str) -> dict[str, str]:
    """Return how far a person is, and how long a vote takes, as a row of a table."""
    done = progress(rows, votes, name)
    seconds = sorted(vote.seconds for vote in latest(votes) if vote.by == name and vote.seconds is not None)
    middle = f"{seconds[len(seconds) // 2]:.1f} s" if seconds else "–"
    return {
        _("Who"): name,
        _("Ranked"): _("{voted} of {total}").format(voted=done.voted - done.skipped, total=done.total),
        _("Skipped"): str(done.skipped),
        _("Time per vote (median)"): middle,
    }


def figures(measured: Agreement | None) -> dict[str, str]:
    """Return an agreement as cells of a table."""
    if measured is None:
        return {_("Questions"): "0", _("Same judgement"): "–", _("Cohen's kappa"): "–"}
    interval = f"{measured.kappa:.2f} ({measured.low:.2f} … {measured.high:.2f})" if measured.kappa is not None else "–"
    return {
        _("Questions"): str(measured.questions),
        _("Same judgement"): percent(measured.share),
        _("Cohen's kappa"): interval,
    }


def preview(rows: Sequence[Samples], votes: Sequence[Vote], system_prompt: str) -> None:
    """Show the pairs that follow from the votes that count, and what the linter says about them."""
    counted = current(votes)
    known = known_votes(counted, rows)
    pairs = pairs_of(known, rows, system_prompt)
    st.subheader(_("Pairs that follow: {number}").format(number=len(pairs)))
    if missing := len(counted) - len(known):
        st.warning(
            _("{number} votes are about answers that are not among the samples, and are left out.").format(
                number=missing
            )
        )
    for warning in lint(pairs, system_prompt):
        st.text(f"⚠ {sentence(warning.message)}")  # plain text, because it may quote answers
    if pairs:
        table = [
            {_("Question"): pair.question, _("Preferred"): pair.chosen_text, _("Rejected"): pair.rejected_text}
            for pair in pairs[:SHOWN]
        ]
        st.dataframe(table, hide_index=True)


def show() -> None:
    """Show the page."""
    rows, votes = read_rows(VOTES), read_votes(VOTES / FILE)
    if not (voter := st.query_params.get("voter", "").strip()):
        ask_name(votes)
        return
    views = {"rank": _("Rank"), "results": _("Results")}
    with st.sidebar:
        st.caption(_("You vote as {name}.").format(name=voter))
        if st.button(_("Someone else votes")):
            st.query_params.clear()
            st.session_state.update(back=0, again=False)
            st.rerun()
        view = st.radio(_("Show"), list(views), format_func=views.__getitem__, horizontal=True)
    if view == "results":
        results(rows, votes, Params.load().model.system_prompt)
    else:
        st.caption(read_guideline(VOTES, rows))
        rank(rows, votes, voter)


with speaking(chosen_language(), CATALOGUE):
    st.set_page_config(page_title=_(TITLE), layout="wide")
    st.subheader(_(TITLE))
    try:
        show()
    except (InputError, OSError) as problem:
        st.error(str(problem))
