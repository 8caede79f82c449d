"""Plain texts for continued pre-training, and the record of what it did."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.errors import InputError
from stance.machine.files import parse_record, read_jsonl, read_output, write_json

RECORD = "plain_text.json"


class Pretraining(BaseModel):
    """What the continued pre-training of the stage `sft` did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: int
    blocks: int
    """Rows of the training, into which the texts were cut."""
    tokens: int
    first_loss: float
    """Mean negative log-likelihood of a token in the first step, nats."""
    last_loss: float

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the record in a `plain_text.json`; raises InputError if it is in another format."""
        return parse_record(TypeAdapter(cls), read_output(path), path)

    def write(self, path: Path) -> None:
        """Write the record to a `plain_text.json`."""
        write_json(path, self.model_dump())


def read_texts(path: Path) -> list[str]:
    """Return the texts in a JSON Lines file, `{"text"}` in each line.

    Raises:
        InputError: The file is missing or holds no text, or a row has none; names the row.
    """
    try:
        texts = [row.get("text") for row in read_jsonl(path)]
    except FileNotFoundError:
        raise InputError(f"sft.plain_text.path is {path}, which does not exist; name a JSON Lines file") from None
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'{path}, row {number}: expected {{"text": "..."}} with a text; add it, or remove the row')
    if not texts:
        raise InputError(f"{path} holds no text; add rows, or set sft.plain_text to null")
    return [str(text) for text in texts]
