"""How the processes of a training share a batch."""

import pytest
import torch
from accelerate import Accelerator

from stance.training import parallel
from stance.training.parallel import SIZES, STARTED, Share, shares, uneven, weight


@pytest.mark.parametrize(
    ("count", "processes", "expected"),
    [(8, 2, [4, 4]), (5, 2, [3, 2]), (1, 2, [1, 0]), (7, 4, [2, 2, 2, 1]), (2, 4, [1, 1, 0, 0]), (3, 1, [3])],
)
def test_a_batch_is_shared_in_its_order_and_nothing_is_lost_or_doubled(count, processes, expected):
    parts = shares(range(count), processes)
    assert [len(part) for part in parts] == expected
    assert [item for part in parts for item in part] == list(range(count))


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_the_mean_of_the_weighted_means_is_the_mean_of_all(count, processes, monkeypatch):
    """As DDP averages the gradients of the processes."""
    values = [float(number**2) for number in range(count)]
    total = 0.0
    for rank in range(processes):
        as_process(monkeypatch, rank, processes)
        batch = Share(lambda rows: {"rows": list(rows)})(values)
        total += weight(batch[SIZES]) * sum(batch["rows"]) / len(batch["rows"])
    assert total / processes == pytest.approx(sum(values) / count)


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, processes: int) -> None:
    for name, value in {STARTED: 1, "RANK": rank, "WORLD_SIZE": processes}.items():
        monkeypatch.setenv(name, str(value))


def test_a_process_without_a_pair_reads_one_that_does_not_count(monkeypatch):
    as_process(monkeypatch, 1, 2)
    batch = Share(lambda rows: {"rows": list(rows)})(["only"])
    assert batch == {"rows": ["only"], SIZES: [1, 0]}
    assert weight(batch[SIZES]) == 0


def test_values_of_uneven_shares_are_gathered_without_the_padding():
    class Gathering:
        """Stands for accelerate; every process but this has the same values, negative."""

        def gather(self, values: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, -values]) if values.ndim else torch.stack([values, -values])

    accelerator: Accelerator = Gathering()  # type: ignore[assignment]
    with uneven(accelerator, [2, 1]):
        assert accelerator.gather(torch.tensor([1.0, 2.0])).tolist() == [1, 2, -1]
        assert accelerator.gather(torch.tensor(5.0)).tolist() == [5, -5]
    assert accelerator.gather(torch.tensor([1.0])).tolist() == [1, -1]


def test_outside_of_a_shared_training_there_is_one_process(monkeypatch):
    """Whatever launchers of others have left in the environment."""
    monkeypatch.delenv(STARTED, raising=False)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (parallel.rank(), parallel.processes()) == (0, 1)
