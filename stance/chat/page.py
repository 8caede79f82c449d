"""The page of `make chat`. Streamlit runs this file from top to bottom after every input.

Where the endpoint serves the base model too, both models answer side by side. Under each answer stands the judge's
label. The page is in English or in Traditional Chinese; at first in the browser's language.

Answers are shown as plain text. So a model's text can neither format the page nor make the browser fetch a picture.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypedDict

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from stance.chat import judge as chat_judge
from stance.client.ask import answer
from stance.client.endpoint import Endpoint, find_endpoint, model_names, provenance, system_prompt
from stance.client.local import ALIGNED, BASE
from stance.data.chat import Message
from stance.data.questions import Stance
from stance.errors import InputError
from stance.evaluation.classifier import Verdict
from stance.evaluation.fitted import Classifier
from stance.language.translation import CHINESE, ENGLISH, LANGUAGES, N_, Language, _, speaking, word
from stance.pages.render import CATALOGUE, signed

TITLE = N_("Chat with the served model")
COLOURS: dict[Stance, Literal["blue", "gray", "orange"]] = {"support": "blue", "neutral": "gray", "oppose": "orange"}
read_judge = st.cache_resource(show_spinner=False)(chat_judge.read)


class Turn(TypedDict):
    """A question, the answer of each model, and the judge's verdicts on the answers that it has read."""

    question: str
    answers: dict[str, str]
    verdicts: dict[str, Verdict]


async def follow(
    endpoint: Endpoint, model: str, conversation: list[Message], settings: dict[str, Any], place: DeltaGenerator
) -> str:
    """Show an answer while it arrives, and return it."""
    shown = ""
    async with (
        endpoint.async_client() as client,
        aclosing(answer(endpoint, client, model, conversation, settings)) as pieces,
    ):
        async for text, _reason in pieces:
            shown += text
            place.text(shown)
    return shown


async def follow_all(
    endpoint: Endpoint,
    conversations: Mapping[str, list[Message]],
    settings: dict[str, Any],
    places: Sequence[DeltaGenerator],
) -> dict[str, str]:
    """Ask every model at the same time, each in its own place, and return the answers by model."""
    asked = (
        follow(endpoint, model, turns, settings, place)
        for (model, turns), place in zip(conversations.items(), places, strict=True)
    )
    return dict(zip(conversations, await asyncio.gather(*asked), strict=True))


def choices(endpoint: Endpoint) -> tuple[list[str], str, dict[str, Any]]:
    """Show the side bar, and return the chosen models, the system prompt and the settings of an answer."""
    run = provenance(endpoint)
    names = sorted(model_names(endpoint), key=lambda name: name != ALIGNED)
    both = [[BASE, ALIGNED]] if {BASE, ALIGNED} <= set(names) else []
    with st.sidebar:
        models = st.selectbox(_("Model"), [*both, *([name] for name in names)], format_func=" | ".join)
        release = run.get("release")
        st.caption(_("release {name}").format(name=release) if release else _("an unknown release"))
        if not both:
            st.caption(_("Start the endpoint with --with-base to see both models side by side."))
        if "system" not in st.session_state:
            st.session_state.system = system_prompt(run)
        system = st.text_area(
            _("System prompt"), key="system", help=_("At first: the one that the model was trained with.")
        )
        tokens = st.number_input(_("Limit of an answer, in tokens"), min_value=1, value=200, key="tokens")
        temperature = st.slider(
            _("Temperature"), 0.0, 1.5, 0.0, help=_("0 always takes the most probable token."), key="temperature"
        )
        if st.button(_("New conversation")):
            st.session_state.history = []
    return models, system, {"max_tokens": int(tokens), "temperature": temperature}


def spoken_with(model: str, system: str, history: Sequence[Turn], question: str) -> list[Message]:
    """Return the conversation with a model: the turns that it has answered, and the new question."""
    messages: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    for turn in history:
        if model in turn["answers"]:
            messages.append({"role": "user", "content": turn["question"]})
            messages.append({"role": "assistant", "content": turn["answers"][model]})
    return [*messages, {"role": "user", "content": question}]


def places(models: Sequence[str]) -> list[DeltaGenerator]:
    """Return a place for the answer of each model, side by side under their names."""
    columns = st.chat_message("assistant").columns(len(models))
    for column, model in zip(columns, models, strict=True):
        column.caption(model)
    return columns


def show(history: Sequence[Turn]) -> None:
    """Show the turns so far, and then the judge's label under each answer."""
    unlabelled: list[tuple[DeltaGenerator, Turn, str]] = []
    for turn in history:
        st.chat_message("user").text(turn["question"])
        for (model, text), column in zip(turn["answers"].items(), places(list(turn["answers"])), strict=True):
            column.text(text)
            unlabelled.append((column.empty(), turn, model))
    if not unlabelled:
        return
    try:
        with st.spinner(_("The judge is being loaded; its labels follow.")):
            judge = read_judge()
    except Exception as problem:  # whatever it is, the page goes on without the judge
        st.caption(_("The answers have no labels: {problem}").format(problem=_(str(problem))))
        return
    for place, turn, model in unlabelled:
        label(place, verdict_on(turn, model, judge))


def verdict_on(turn: Turn, model: str, judge: Classifier) -> Verdict:
    """Return the judge's verdict on an answer, which reads it once."""
    if model not in turn["verdicts"]:
        turn["verdicts"][model] = judge.predict([turn["question"]], [turn["answers"][model]])[0]
    return turn["verdicts"][model]


def label(place: DeltaGenerator, verdict: Verdict) -> None:
    """Show the label that the judge gives an answer, and its score."""
    place.badge(f"{word(verdict.stance)} {signed(verdict.score)}", color=COLOURS[verdict.stance])


def talk(endpoint: Endpoint) -> None:
    """Show the conversation, and answer the next question."""
    models, system, settings = choices(endpoint)
    history: list[Turn] = st.session_state.setdefault("history", [])
    show(history)
    if not (question := st.chat_input(_("Ask something"))):
        return
    st.chat_message("user").text(question)
    conversations = {model: spoken_with(model, system, history, question) for model in models}
    waiting = [column.empty() for column in places(models)]
    replies = asyncio.run(follow_all(endpoint, conversations, settings, waiting))
    history.append({"question": question, "answers": replies, "verdicts": {}})
    st.rerun()


def chosen_language() -> Language:
    """Return the language of the page: the browser's at first, then the one chosen in the side bar."""
    first = CHINESE if (st.context.locale or "").lower().startswith("zh") else ENGLISH
    names = {language.name: language for language in LANGUAGES}
    with st.sidebar:
        name = st.radio("Language · 語言", list(names), index=list(names.values()).index(first), horizontal=True)
    return names[name]


spoken = chosen_language()
with speaking(spoken, CATALOGUE):
    st.set_page_config(page_title=_(TITLE), layout="wide")
    st.title(_(TITLE))
    try:
        talk(find_endpoint())
    except InputError as problem:
        st.error(str(problem))
