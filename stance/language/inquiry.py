"""What a language model is told when it judges an answer's stance, in one language, and how its reply is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Stance = Literal["support", "neutral", "oppose"]


@dataclass(frozen=True)
class Inquiry:
    """The wording of an inquiry."""

    task: str
    """The system prompt."""
    frame: str
    """How a question and an answer to it are put before the model, with a place for each."""
    words: Mapping[str, Stance]
    """The words that the model may answer, with the stances that they name."""
    named: re.Pattern[str]
    """One of the words in a reply, in any spelling."""
    denied: re.Pattern[str]
    """One of the words after a negation."""

    def stance(self, text: str) -> Stance | None:
        """Return the stance that a reply names, if it names exactly one and does not deny it."""
        replies = {self.words[word] for word in map(self._spelled, self.named.findall(text))}
        return replies.pop() if len(replies) == 1 and not self.denied.search(text) else None

    def _spelled(self, word: str) -> str:
        return word.lower().replace("对", "對")


def inquiry(task: str, frame: str, words: Mapping[str, Stance], named: str, denied: str) -> Inquiry:
    """Return an inquiry; `named` and `denied` are regular expressions, and `denied` comes before `named`."""
    patterns = (re.compile(pattern, re.IGNORECASE) for pattern in (named, f"{denied}(?:{named})"))
    return Inquiry(task, frame, MappingProxyType(dict(words)), *patterns)
