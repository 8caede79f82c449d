"""The page that `make chat` serves; Streamlit runs it from top to bottom whenever something is entered or chosen.

Answers are shown as plain text: what a model says can neither format the page nor make the browser fetch a picture.
"""

import asyncio
from contextlib import aclosing
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from stance.client.ask import answer
from stance.client.endpoint import Endpoint, find_endpoint, provenance, served, system_prompt
from stance.client.local import ALIGNED
from stance.data.chat import Message
from stance.errors import InputError

TITLE = "Chat with the served model"


async def follow(
    at: Endpoint, model: str, asked: list[Message], settings: dict[str, Any], place: DeltaGenerator
) -> str:
    """Show an answer as it comes, and return it."""
    said = ""
    async with at.async_client() as client, aclosing(answer(at, client, model, asked, settings)) as pieces:
        async for text, _ in pieces:
            said += text
            place.text(said)
    return said


def choices(at: Endpoint) -> tuple[str, str, dict[str, Any]]:
    """Show what can be chosen; return the model, the system prompt and the settings of an answer."""
    told = provenance(at)
    with st.sidebar:
        model = st.selectbox("Model", sorted(served(at), key=lambda name: name != ALIGNED))
        st.caption(f"release {told['release']}" if told.get("release") else "an unknown release")
        if "system" not in st.session_state:
            st.session_state.system = system_prompt(told)
        system = st.text_area("System prompt", key="system", help="Filled in: the one that the model was trained with.")
        tokens = st.number_input("Most tokens of an answer", min_value=1, value=200)
        temperature = st.slider("Temperature", 0.0, 1.5, 0.0, help="0 always takes the likeliest word.")
        if st.button("New conversation"):
            st.session_state.said = []
    return model, system, {"max_tokens": int(tokens), "temperature": temperature}


def talk(at: Endpoint) -> None:
    """Show the conversation and go on with it."""
    model, system, settings = choices(at)
    said: list[Message] = st.session_state.setdefault("said", [])
    for message in said:
        st.chat_message(message["role"]).text(message["content"])
    if not (question := st.chat_input("Ask something")):
        return
    st.chat_message("user").text(question)
    asked = [*said, {"role": "user", "content": question}]
    opening = [{"role": "system", "content": system}] if system.strip() else []
    place = st.chat_message("assistant").empty()
    found = asyncio.run(follow(at, model, [*opening, *asked], settings, place))
    st.session_state.said = [*asked, {"role": "assistant", "content": found}]


st.set_page_config(page_title=TITLE)
st.title(TITLE)
try:
    talk(find_endpoint())
except InputError as error:
    st.error(str(error))
