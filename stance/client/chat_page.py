"""The page of `make chat`. Streamlit runs this file from top to bottom after every input.

Answers are shown as plain text. So a model's text can neither format the page nor make the browser fetch a picture.
"""

import asyncio
from contextlib import aclosing
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from stance.client.ask import answer
from stance.client.endpoint import Endpoint, find_endpoint, model_names, provenance, system_prompt
from stance.client.local import ALIGNED
from stance.data.chat import Message
from stance.errors import InputError

TITLE = "Chat with the served model"


async def follow(
    endpoint: Endpoint, model: str, conversation: list[Message], settings: dict[str, Any], place: DeltaGenerator
) -> str:
    """Show an answer while it arrives, and return it."""
    shown = ""
    async with (
        endpoint.async_client() as client,
        aclosing(answer(endpoint, client, model, conversation, settings)) as pieces,
    ):
        async for text, _ in pieces:
            shown += text
            place.text(shown)
    return shown


def choices(endpoint: Endpoint) -> tuple[str, str, dict[str, Any]]:
    """Show the side bar, and return the chosen model, the system prompt and the settings of an answer."""
    run = provenance(endpoint)
    with st.sidebar:
        model = st.selectbox("Model", sorted(model_names(endpoint), key=lambda name: name != ALIGNED))
        st.caption(f"release {run['release']}" if run.get("release") else "an unknown release")
        if "system" not in st.session_state:
            st.session_state.system = system_prompt(run)
        system = st.text_area("System prompt", key="system", help="At first: the one that the model was trained with.")
        tokens = st.number_input("Limit of an answer, in tokens", min_value=1, value=200)
        temperature = st.slider("Temperature", 0.0, 1.5, 0.0, help="0 always takes the most probable token.")
        if st.button("New conversation"):
            st.session_state.history = []
    return model, system, {"max_tokens": int(tokens), "temperature": temperature}


def talk(endpoint: Endpoint) -> None:
    """Show the conversation, and answer the next question."""
    model, system, settings = choices(endpoint)
    history: list[Message] = st.session_state.setdefault("history", [])
    for message in history:
        st.chat_message(message["role"]).text(message["content"])
    if not (question := st.chat_input("Ask something")):
        return
    st.chat_message("user").text(question)
    conversation = [*history, {"role": "user", "content": question}]
    opening = [{"role": "system", "content": system}] if system.strip() else []
    place = st.chat_message("assistant").empty()
    reply = asyncio.run(follow(endpoint, model, [*opening, *conversation], settings, place))
    st.session_state.history = [*conversation, {"role": "assistant", "content": reply}]


st.set_page_config(page_title=TITLE)
st.title(TITLE)
try:
    talk(find_endpoint())
except InputError as error:
    st.error(str(error))
