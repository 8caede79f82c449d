"""The rest of the push matrix: by git-lfs what tests/services/test_push.py has by xet, since it is plain HTTP."""

import pytest

from tests.services.test_push import (
    EITHER,
    KILLED,
    REFUSING,
    STEPS,
    by_lfs,
    finished,
    hangs_up,
    home,
    is_killed,
    many_at_once,
    passes_by_itself,
    refuses,
    run,
    start,
    stays_busy,
)

__all__ = ["by_lfs", "finished", "home", "run", "start"]  # fixtures


@pytest.mark.parametrize("fault", [name for name in EITHER if "preupload" not in name])
def test_what_passes_is_waited_out_and_nothing_is_done_twice(fault, by_lfs, run, hub):
    passes_by_itself(EITHER[fault], by_lfs, run, hub)


PLAIN = [step for step in STEPS if step != "preupload"]


@pytest.mark.parametrize("step", PLAIN)
@pytest.mark.parametrize("acts", [False, True], ids=["before", "after"])
def test_a_hub_that_stays_busy_is_one_sentence_and_the_next_run_completes(step, acts, by_lfs, run, hub):
    stays_busy(step, acts, by_lfs, run, hub)


@pytest.mark.parametrize("step", PLAIN)
def test_a_hub_that_hangs_up_is_one_sentence_and_the_next_run_completes(step, by_lfs, run, hub):
    hangs_up(step, by_lfs, run, hub)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("step", [step for step in REFUSING if step in PLAIN])
def test_a_refusal_is_one_sentence_at_once_and_the_next_run_completes(step, status, by_lfs, run, hub):
    refuses(step, status, by_lfs, run, hub)


@pytest.mark.parametrize("moment", [moment for moment in KILLED if "storage" not in moment])
def test_a_push_that_is_killed_is_completed_by_the_next(moment, start, by_lfs, run, hub):
    is_killed("lfs", moment, start, run, hub, by_lfs)


def test_the_same_release_pushed_many_times_at_once_is_one(start, run, hub, tmp_path):
    many_at_once("lfs", start, run, hub, tmp_path)
