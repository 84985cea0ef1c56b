"""Training computes what a loop in double precision does, for any loss, processes, micro-batches, accumulation."""

import pytest

from tools.exactness import LOSSES, cells

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_losses_accuracies_and_gradients_are_those_of_a_plain_loop(ranks: int) -> None:
    rows = list(cells(ranks, [*LOSSES]))
    assert len(rows) == len(LOSSES) * 4
    assert max(max(row.values()) for *_, row in rows) < 1e-6
