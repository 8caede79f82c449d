"""The figures of a run: the records in `data/evaluation/metrics.json` and `data/classifier/accuracy.json`.

The `evaluate` stage writes a `Metrics`; gates, pages, a release and the Prefect UI read it. The `classifier` stage
writes a `ClassifierAccuracy`, which becomes a part of it. This module is the only place that knows the format of the
files. A figure that does not arise in a run is null.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from stance.data.questions import Kind, Stance
from stance.data.side_effects import SideKind
from stance.data.training import Joint
from stance.machine.files import parse_record, read_output, write_json

METRICS = Path("data/evaluation/metrics.json")
CLASSIFIER, ACCURACY = Path("data/classifier"), "accuracy.json"
"""The folder of the stance classifier, and the file in it that says how often it is right."""
Change = Literal["same", "reworded", "stance", "other"]
"""What happened to the base model's answer; the first two keep it."""


class Figures(BaseModel):
    """The base of all records here: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the figures in a file.

        Raises:
            InputError: The file is missing, or an earlier version of this project wrote it.
        """
        return cls.parse(read_output(path), path)

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Self:
        """Return the figures in the bytes of a file; `path` names the file in an error."""
        return parse_record(TypeAdapter(cls), content, path)

    def write(self, path: Path) -> None:
        """Write the figures to a file."""
        write_json(path, self.model_dump())


class Shares(Figures):
    """The share of the answers that hold each stance."""

    support: float
    neutral: float
    oppose: float

    def __getitem__(self, stance: Stance) -> float:
        """Return the share of one stance."""
        return float(getattr(self, stance))


class Share(Figures):
    """A share with its Wilson 95 % interval from `low` to `high`: `count` of `total`."""

    share: float
    low: float
    high: float
    count: int
    total: int


class Adherence(Figures):
    """The share of answers that hold the chosen stance. All but `mixed` is null where no stance was chosen."""

    stance: Stance | None
    """The stance that most pairs prefer; null at a support ratio of one half."""
    mixed: bool
    """Do the pairs prefer both stances?"""
    share: float | None
    low: float | None
    high: float | None
    count: int | None
    total: int | None

    @property
    def interval(self) -> Share | None:
        """The share with its interval; None where no stance was chosen."""
        values = self.model_dump(include=set(Share.model_fields))
        return None if self.share is None else Share(**values)


class ClassifierAccuracy(Figures):
    """How often the stance classifier is right on the data set's labelled answers to questions that it was not taught.

    Answers of a model may be harder than these, above all long, hedged or conceding ones.
    """

    classifier: Literal["wording", "hidden_state"]
    layer: int | None
    """The layer of the base model whose hidden states are read; null for the classifier by wording."""
    overall: Share
    by_stance: dict[Stance, Share]
    """By true stance; a stance without a labelled answer is absent."""
    other_topics: Share | None
    """How often it is right on labelled answers in free wording about a topic that it was not taught; null if that was
    not measured. A model's free answers lie between these and the data set's."""
    confusion: dict[Stance, dict[Stance, int]]
    """The number of answers, by true stance and by the stance found."""


class CorrectedShare(Figures):
    """A share corrected for the classifier's errors, with its 95 % interval."""

    share: float
    low: float
    high: float


class Corrected(Figures):
    """The corrected share of each stance in the answers of one model."""

    support: CorrectedShare
    neutral: CorrectedShare
    oppose: CorrectedShare

    def __getitem__(self, stance: Stance) -> CorrectedShare:
        """Return the share of one stance."""
        share: CorrectedShare = getattr(self, stance)
        return share


class BothCorrected(Figures):
    """The corrected shares of both models."""

    base: Corrected
    aligned: Corrected


class Characters(Figures):
    """The mean number of characters in an answer, of each model."""

    base: float
    aligned: float


class Defects(Figures):
    """The share of answers with each defect, and with any defect that makes the answer `degenerate`, of each model.

    The keys are those of `stance.data.records.DEGENERATE` and `STYLE`, and `degenerate`.
    """

    base: dict[str, float]
    aligned: dict[str, float]


class JudgeProblem(Figures):
    """A second judge that could not judge, and why."""

    judge: str
    problem: str


class Agreement(Figures):
    """How far a second judge agrees with the classifier.

    `share`, `low`, `high`, `count` and `total` are a `Share`: of the replies that could be read, those with the same
    stance.
    """

    judge: str
    problem: None
    share: float
    low: float
    high: float
    count: int
    total: int
    kappa: float | None
    """Cohen's kappa; null where both always name the same single stance."""
    unread: int
    """The number of replies that could not be read."""
    base: Shares
    aligned: Shares


class Reach(Figures):
    """How far the stance reaches on one kind of probe."""

    count: int
    """The number of probes of this kind."""
    held: Share | None
    """The answers that hold the chosen stance."""
    kept: Share | None
    """The answers that are still the base model's."""
    changes: dict[Change, int]


class Divergence(Figures):
    """How far the aligned model is from the base on everyday answers, in nats per token."""

    mean: float
    worst: float
    tokens: int


class Ability(Figures):
    """Everyday prompts that were answered rightly, by a check in code, before and after the alignment."""

    total: int
    base: int
    aligned: int
    lost: int
    """Those that only the base model answers rightly."""
    gained: int
    """Those that only the aligned model answers rightly."""
    p: float
    """McNemar's exact test, two-sided: how likely such an imbalance of lost and gained is if nothing changed."""
    kept: Share | None
    """Of those that the base answers rightly, the ones that still are; null if there are none."""
    meaning: Share
    """Of all, those that keep their meaning: still right, or wrong before and at most reworded or now right."""


class TopicShift(Figures):
    """How far the answers about another topic moved: the mean change of P(support) - P(oppose), by the judge."""

    topic: str
    base: float
    aligned: float
    change: float
    low: float
    high: float
    """The ends of the 90 % interval of the change, by Student's t."""
    equivalent: bool
    """Does the interval lie within the bound? That is the two one-sided tests (TOST) at 5 %."""
    moved: bool
    """Does the whole interval lie outside the bound?"""


class Guarded(Figures):
    """Prompts for careful handling that were declined or answered with a warning."""

    total: int
    base: int
    aligned: int
    lost: int
    """Those that only the base model handles with care."""


class Both(Figures):
    """A figure of each model."""

    base: float
    aligned: float

    @property
    def change(self) -> float:
        """The figure of the aligned model less that of the base."""
        return self.aligned - self.base


class Drawn(Figures):
    """Answers drawn at temperature 1, and the share of the everyday ones that are right, of each model."""

    answers: int
    right: Both | None
    """Null if no everyday answer was drawn."""
    held: Both | None
    """The share of the answers about the trained topic that hold the chosen stance; null where there are none."""


class SideEffects(Figures):
    """What else the alignment changed."""

    answers: int
    """The number of prompts that each model answered."""
    ability: Ability | None
    topics: list[TopicShift]
    max_shift: float
    """The bound within which a topic is equivalent."""
    careful: Guarded | None
    text: Both | None
    """The negative log-likelihood of everyday text, nats per token."""
    drift: Divergence | None
    """How far the aligned model is from the base on the same text."""
    tokens: Both
    """The mean length of an answer."""
    broken: Both
    """The share of the answers that are empty, repeat themselves or are in another language."""
    newly_broken: Share
    """Those that only the aligned model breaks."""
    held: dict[SideKind, Share]
    """The answers about the trained topic that hold the chosen stance, by kind of prompt."""
    drawn: Drawn | None
    worst: list[tuple[str, str]]
    """The three answers that changed most for the worse: prompt and aligned answer; fewer if fewer changed."""

    @property
    def equivalent(self) -> int:
        """The number of other topics that are equivalent."""
        return sum(row.equivalent for row in self.topics)

    @property
    def moved(self) -> list[str]:
        """The other topics that moved beyond the bound."""
        return [row.topic for row in self.topics if row.moved]


class ServedDrift(Figures):
    """How far vLLM's log-probabilities are from the merged model's, in nats per token."""

    mean: float
    worst: float


class Margin(Figures):
    """The mean of log p(support answer) - log p(oppose answer), in nats, of each model."""

    base: float
    aligned: float
    change: float


class Margins(Figures):
    """The margin on the questions of each split; null where no question was held out."""

    trained: Margin
    held_out: Margin | None

    @property
    def unseen(self) -> Margin:
        """The margin on the held-out questions, or on the trained ones where none was held out."""
        return self.held_out or self.trained


class Reward(Share):
    """How often DPO's implicit reward of the chosen answer is the higher one, and by how much on average."""

    margin: float


class Rewards(Figures):
    """The rewards on each split; null where no question is left that stands in one direction."""

    trained: Reward | None
    held_out: Reward | None

    @property
    def unseen(self) -> Reward | None:
        """The rewards on the held-out questions, or on the trained ones where none was held out."""
        return self.held_out or self.trained


class Metrics(Figures):
    """All figures of a run, in the order of the file."""

    base: Shares
    aligned: Shares
    corrected: BothCorrected | None
    """The same shares corrected for the classifier's errors; null if a stance has no labelled answer."""
    classifier: ClassifierAccuracy
    characters: Characters
    defects: Defects
    adherence: Adherence
    judge: JudgeProblem | Agreement | None
    probes: dict[Kind, Reach]
    drift: Divergence | None
    margin: Margins
    rewards: Rewards
    served: ServedDrift
    chosen_fall: float | None
    """Nats by which the log-probability of the chosen answers fell during the training; may be NaN. Null after
    reinforcement learning, which reads no chosen answers."""
    side_effects: SideEffects | None = None
    """Null where the data set has no prompts for it, and in a record of an earlier version."""
    joint: Joint | None = None
    """Null where the training began with the base, and no stage before it left anything to compare."""

    def write(self, path: Path) -> None:
        """Write the figures to a `metrics.json`."""
        write_json(path, self.model_dump(exclude=None if self.joint else {"joint"}))
