"""Means over values, not over batches: batches of different sizes, types that count badly, several processes."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from useful_code.training.step_means import StepMeans

batches = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5), min_size=1, max_size=6)


@given(batches)
def test_the_mean_is_over_all_values(batches):
    means = StepMeans()
    for batch in batches:
        means.add(value=torch.tensor(batch))
    values = [value for batch in batches for value in batch]
    assert means.pop()["value"] == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_popping_starts_anew():
    means = StepMeans()
    assert means.pop() == {}
    means.add(a=torch.tensor([1.0]))
    assert means.pop() == {"a": 1.0}
    means.add(a=torch.tensor([3.0]), b=torch.tensor([5.0]))
    assert means.pop() == {"a": 3.0, "b": 5.0}
    assert means.pop() == {}


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float16, torch.float64])
def test_the_count_does_not_depend_on_the_type(dtype):
    """300 ones and 200 zeros: 0.6. Counted in bool that is 1 value, in int8 an overflow, in bfloat16 a rounding."""
    means = StepMeans()
    means.add(share=torch.ones(299, dtype=dtype))
    means.add(share=torch.tensor([1] + [0] * 200, dtype=dtype))
    assert means.pop()["share"] == pytest.approx(0.6, abs=1e-6)


def test_no_graph_is_kept():
    means = StepMeans()
    means.add(margin=torch.ones(3, requires_grad=True) * 2)
    assert not means.totals["margin"].requires_grad


def test_a_name_without_values_is_left_out_and_one_with_values_elsewhere_is_not():
    here, there = StepMeans(), StepMeans()
    here.add(ties=torch.zeros(0), others=torch.ones(2))
    assert here.pop() == {"others": 1.0}
    here.add(ties=torch.zeros(0))
    there.add(ties=torch.ones(3))
    assert here.pop(SimpleNamespace(reduce=lambda total, how: total + there.totals["ties"])) == {"ties": 1.0}


def test_processes_with_unequal_batches_are_weighted_by_their_values():
    """1 value of 4.0 here, 3 values of 0.0 there: 1.0, not the mean of means 2.0."""
    here, there = StepMeans(), StepMeans()
    here.add(x=torch.tensor([4.0]))
    there.add(x=torch.zeros(3))
    accelerator = SimpleNamespace(reduce=lambda total, how: total + there.totals["x"] if how == "sum" else None)
    assert here.pop(accelerator) == {"x": 1.0}
