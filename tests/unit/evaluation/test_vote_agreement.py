"""Agreement of voters: kappa by hand, self-agreement, position bias, and the bound for a model that votes alone."""

import pytest

from stance.errors import InputError
from stance.evaluation.vote_agreement import (
    agreement,
    between_people,
    judgements,
    kappa,
    position_bias,
    require_agreement,
    require_models,
    with_oneself,
    with_people,
)
from stance.ranking.items import rankable, seed_of, shown
from tests.builders.ranked import ranked_by_text, several, vote_on

ROWS = rankable(several(10, answers=2))


def item(number: int, voter: str, time: int = 0):
    return shown(ROWS[number], seed_of(voter, ROWS[number].id, time))


def votes_by(voter: str, turned: int = 0, **changes):
    """Return votes in the order of the texts; the first `turned` ones are the other way round."""
    votes = [ranked_by_text(item(number, voter), voter, **changes) for number in range(len(ROWS))]
    return [
        vote.model_copy(update={"ranks": [3 - rank for rank in vote.ranks]}) if number < turned else vote
        for number, vote in enumerate(votes)
    ]


def test_kappa_as_worked_out_by_hand():
    """Both say 1 of 6 and -1 of 4; they agree on 8 of 10. Chance: 0.36 + 0.16 = 0.52; (0.8 - 0.52) / 0.48."""
    counted = [(1, 1)] * 5 + [(-1, -1)] * 3 + [(1, -1), (-1, 1)]
    assert kappa(counted) == pytest.approx((0.8 - 0.52) / 0.48)
    assert kappa([(1, 1)] * 3) is None
    assert kappa([(1, -1), (-1, 1)]) == -1


def test_judgements_do_not_depend_on_the_order_in_which_answers_were_shown():
    first, second = item(0, "Wang"), item(0, "Wang")._replace(answers=item(0, "Wang").answers[::-1])
    assert {a == b for a, b in judgements(vote_on(first, [1, 2], "Wang"), vote_on(second, [2, 1], "Lin"))} == {True}
    assert [sorted(pair) for pair in judgements(vote_on(first, [1, 1], "Wang"), vote_on(second, [2, 1], "Lin"))] in (
        [[-1, 0]], [[0, 1]]
    )  # fmt: skip


def test_people_who_agree_on_nine_of_ten():
    measured = agreement(between_people([*votes_by("Wang"), *votes_by("Lin", turned=1)]))
    assert (measured.questions, measured.pairs, measured.share) == (10, 10, 0.9)
    assert measured.low <= measured.kappa <= measured.high
    assert agreement(between_people(votes_by("Wang"))) is None


def test_a_skipped_vote_is_compared_with_nothing():
    wang, lin = ranked_by_text(item(0, "Wang"), "Wang"), vote_on(item(0, "Lin"), [], "Lin", skipped=True)
    assert between_people([wang, lin]) == []


def test_repeated_questions_measure_how_far_a_person_agrees_with_himself():
    first, again = ranked_by_text(item(0, "Wang"), "Wang"), ranked_by_text(item(0, "Wang", 1), "Wang")
    assert agreement(with_oneself([first, again])).share == 1.0
    turned = again.model_copy(update={"ranks": [3 - rank for rank in again.ranks]})
    assert agreement(with_oneself([first, turned])).share == 0.0
    assert between_people([first, again]) == []


def test_a_bias_to_the_first_place_is_seen():
    always_first = [vote_on(item(number, "Wang"), [1, 2], "Wang") for number in range(10)]
    measured = position_bias(always_first)
    assert (measured.count, measured.total) == (10, 10)
    assert measured.low > 0.5
    assert position_bias([vote_on(item(0, "Wang"), [1, 1], "Wang")]) is None


def test_a_model_that_agrees_with_people_may_vote_alone():
    votes = [*votes_by("Wang"), *votes_by("base", is_model=True)]
    assert require_agreement(votes, "base", 0.6, 10).kappa == 1.0
    assert len(with_people(votes, "base")) == 10


def test_a_model_below_the_bound_is_refused_with_the_figures():
    votes = [*votes_by("Wang"), *votes_by("base", turned=4, is_model=True)]
    with pytest.raises(
        InputError,
        match=r"base may not vote alone: kappa 0\.\d\d \(95 % interval -?\d\.\d\d to \d\.\d\d\) on 10 pairs of 10 "
        r"questions, of which 60% are judged alike; expected a kappa of at least 0\.6",
    ):
        require_agreement(votes, "base", 0.6, 10)


def test_a_model_is_refused_if_it_shares_too_few_questions_with_people():
    votes = [*votes_by("Wang"), *votes_by("base", is_model=True)]
    with pytest.raises(InputError, match="base and people have ranked 10 questions in common; expected at least 20"):
        require_agreement(votes, "base", 0.6, 20)
    with pytest.raises(InputError, match="have ranked 0 questions in common"):
        require_agreement(votes_by("Wang"), "base", 0.6, 20)


def test_every_model_whose_votes_count_needs_the_agreement():
    beside = [*votes_by("Wang"), *votes_by("base", turned=4, is_model=True)]
    assert require_models(beside, 0.6, 10) == {}
    alone = votes_by("base", is_model=True)[0].model_copy(update={"prompt_id": 99})
    with pytest.raises(InputError, match="base may not vote alone"):
        require_models([*beside, alone], 0.6, 10)
    agreeing = [*votes_by("Wang"), *votes_by("base", is_model=True), alone]
    assert require_models(agreeing, 0.6, 10)["base"].kappa == 1.0
