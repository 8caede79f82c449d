"""How far two copies of a model may drift apart and still be the same: a rule on a measured noise floor.

bf16 keeps 8 bits of a number, and every layer rounds its results to them. So two correct programs give different
log-probabilities for the same weights, by an amount that depends on the model: some 0.001 nats per token in a miniature
of a million parameters, 0.04 in SmolLM2-135M. The stage `merge` measures it for every model. The **floor** is the drift
between the merged model's bf16 scores and scores of the same bf16 weights in float32 arithmetic, which rounds nothing
that counts. It needs no engine and no second model, so that a fault in either cannot widen it.

A bound is the floor times the number of roundings that lie between two copies:

* 3 between the trained and the merged model (`MERGED`): the arithmetic of the trained model, the arithmetic of the
  merged model, and the merged weights, which are rounded to bf16 once, each by as much as a result is.
* 2 between two engines on the same weights (`SERVED`): the arithmetic of each.

Differences add up to at most their sum (triangle inequality), and independent ones to 0.6 or 0.7 of it, so the mean
drift of a correct copy stays within the bound. The worst token is a single one: on the same weights, two kinds of
attention are 0.21 and 0.35 nats from the exact scores. So its bound is `SPREAD` times wider. The factors come from
counting and not from a model.

Measured on SmolLM2-135M, aligned with 40 pairs (729 tokens on a CPU, mean and worst): floor 0.041 and 0.21; the same
merged weights by two kinds of attention 0.053 and 0.37; trained against merged 0.053 and 0.36, so that a correct merge
is no further away than a correct program; trained against a merge into the published weights 0.65 and 5.0. Over all
2 195 tokens vLLM is 0.050 and 0.38 from transformers on the merged weights.
"""

from math import nan

from pydantic import BaseModel, ConfigDict

MERGED, SERVED = 3, 2
"""Roundings between the trained and the merged model, and between two engines on the same weights."""
SPREAD = 2
"""How much the worst tokens of two correct programs differ."""


class Floor(BaseModel):
    """Drift that bf16 arithmetic alone brings to a model, nats per token."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)

    mean: float
    worst: float

    def bounds(self, roundings: int) -> tuple[float, float]:
        """Return the greatest mean and worst drift of a correct copy that is so many roundings away."""
        return roundings * self.mean, SPREAD * roundings * self.worst


UNMEASURED = Floor(mean=nan, worst=nan)
"""The floor of a merge that did not measure it: no drift is within its bounds."""
