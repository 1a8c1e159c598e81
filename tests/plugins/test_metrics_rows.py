"""What scorers keep of samples."""

import pytest
import torch

from mtdiff_metrics.rows import Rows


@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_rows_are_lost_or_change_their_order_or_dtype(shape, dtype):
    batches = [
        (torch.rand(count, *shape, generator=torch.Generator().manual_seed(count)) * 9).to(dtype)
        for count in (3, 0, 1, 20, 4, 4, 7)
    ]
    rows = Rows()
    for batch in batches:
        rows.add(batch)
    assert len(rows) == 39
    assert rows.all().dtype == dtype
    assert rows.all().equal(torch.cat(batches))


def test_no_rows_are_taken_for_some():
    rows = Rows()
    assert (len(rows), len(rows.all()), rows.begun) == (0, 0, False)
    rows.add(torch.zeros(0, 4))
    assert (len(rows), rows.all().shape, rows.begun) == (0, (0, 4), True)


def test_what_is_kept_changes_with_the_batch_that_it_came_from():
    rows, batch = Rows(), torch.ones(5)
    rows.add(batch)
    batch.zero_()
    assert rows.all().equal(torch.ones(5))


def test_every_batch_takes_memory_of_its_own_or_much_more_than_it_needs():
    rows, blocks = Rows(), set()
    for _ in range(1000):
        rows.add(torch.zeros(10, 4))
        blocks.add(len(rows.all().untyped_storage()))
    assert len(blocks) < 15
    assert max(blocks) < 2.1 * 1000 * 10 * 4 * 4
