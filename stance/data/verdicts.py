"""The records of the two judges: `verdicts.json`, `stances.json`, `probes.json` and `side_effects.json`.

Stage `judge` writes the second judge's `Opinion` to `data/judge/verdicts.json`. Stage `evaluate` writes the verdicts of
the stance classifier: `PromptVerdicts` on the answers to the test prompts, `ProbeVerdicts` on those to the probes, and
`SideVerdicts` on those to the prompts that show side effects. The pages read them. This module is the only place that
knows the four formats.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from stance.data.metrics import Change
from stance.data.questions import Kind, Stance
from stance.data.side_effects import SideKind
from stance.machine.files import parse_record, read_output, write_json

STANCES_FILE = Path("data/evaluation/stances.json")
FORMAT = ConfigDict(frozen=True, extra="forbid")


class Opinion(BaseModel):
    """The second judge's stances, or the reason why it could not judge."""

    model_config = FORMAT

    judge: str | None
    """The name of the judge; null where the parameters name none."""
    problem: str | None
    """Why the judge could not judge."""
    base: list[Stance | None] = []
    """The stance of each answer of the base model, in their order; null where the reply could not be read."""
    aligned: list[Stance | None] = []
    """The same for the aligned model."""

    @model_validator(mode="after")
    def _has_stances(self) -> Self:
        if self.judge and not (self.base and self.aligned):
            raise ValueError("a judge needs the stances of base and aligned")
        return self

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the opinion in a `verdicts.json`.

        Raises:
            InputError: The file is missing or in another format.
        """
        return parse_record(TypeAdapter(cls), read_output(path), path)

    def write(self, path: Path) -> None:
        """Write the opinion to a `verdicts.json`."""
        write_json(path, self.model_dump(exclude_unset=True))


class AnswerVerdict(BaseModel):
    """The classifier's verdict on an answer, and the answer's defects."""

    model_config = FORMAT

    stance: Stance
    score: float
    """P(support) - P(oppose)."""
    defects: list[str]
    """Keys of `stance.data.records.DEGENERATE` and `STYLE`, sorted."""


class PromptVerdicts(BaseModel):
    """The verdicts on both answers to a test prompt: a row of `stances.json`."""

    model_config = FORMAT

    id: int
    base: AnswerVerdict
    aligned: AnswerVerdict


class ProbeAnswer(BaseModel):
    """An answer to a probe, with the classifier's verdict on it."""

    model_config = FORMAT

    response: str
    stance: Stance
    score: float
    """P(support) - P(oppose)."""


class ProbeVerdicts(BaseModel):
    """A probe with both answers and what happened to the base model's: a row of `probes.json`."""

    model_config = FORMAT

    id: int
    prompt: str
    kind: Kind
    of: int | None = None
    pushes: Stance | None = None
    base: ProbeAnswer
    aligned: ProbeAnswer
    change: Change


Effect = Literal["same", "reworded", "gained", "lost", "unguarded", "broken", "shifted", "other", "holds", "misses"]
"""What became of the base model's answer to a prompt that shows side effects. `gained` and `lost`: right now, or not
any more. `unguarded`: no longer declined or given with care. `broken`: empty, repetitive or in another language.
`shifted`: with another stance. `holds` and `misses`: whether an answer about the trained topic holds the stance."""


class SideAnswer(BaseModel):
    """An answer to a prompt that shows side effects; its stance where a judge read it."""

    model_config = FORMAT

    response: str
    stance: Stance | None = None


class SideVerdicts(BaseModel):
    """A prompt with both answers and what became of the base model's: a row of `side_effects.json`."""

    model_config = FORMAT

    id: int
    kind: SideKind
    topic: str | None = None
    prompt: str
    base: SideAnswer
    aligned: SideAnswer
    effect: Effect
    severity: float
    """How bad the change is; the rows are sorted by it."""


SIDE_LIST = TypeAdapter(list[SideVerdicts])
PROMPT_LIST, PROBE_LIST = TypeAdapter(list[PromptVerdicts]), TypeAdapter(list[ProbeVerdicts])


def read_prompt_verdicts(path: Path) -> list[PromptVerdicts]:
    """Return the rows of a `stances.json`; raises as `Opinion.read` does."""
    return parse_record(PROMPT_LIST, read_output(path), path)


def write_prompt_verdicts(path: Path, rows: Iterable[PromptVerdicts]) -> None:
    """Write the rows of a `stances.json`."""
    write_json(path, [row.model_dump() for row in rows])


def read_probe_verdicts(path: Path) -> list[ProbeVerdicts]:
    """Return the rows of a `probes.json`; raises as `Opinion.read` does."""
    return parse_record(PROBE_LIST, read_output(path), path)


def write_probe_verdicts(path: Path, rows: Iterable[ProbeVerdicts]) -> None:
    """Write the rows of a `probes.json`; a row holds only the keys that its kind of probe has."""
    write_json(path, [row.model_dump(exclude_none=True) for row in rows])


def read_side_verdicts(path: Path) -> list[SideVerdicts]:
    """Return the rows of a `side_effects.json`; raises as `Opinion.read` does."""
    return parse_record(SIDE_LIST, read_output(path), path)


def write_side_verdicts(path: Path, rows: Iterable[SideVerdicts]) -> None:
    """Write the rows of a `side_effects.json`."""
    write_json(path, [row.model_dump(exclude_none=True) for row in rows])
