"""The most similar vector of a table is the first of the largest products, found by any of the ways."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tokenstore.tokenizers.similarities import in_parts, largest, most_similar


@given(
    size=st.integers(1, 200),
    count=st.integers(1, 9),
    seed=st.integers(0, 1000),
    highest=st.sampled_from([1, 3, 1000]),
)
def test_the_largest_score_is_the_first_of_equal_ones(size, count, seed, highest):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, highest + 1, (size, count), generator=generator).float()
    expected = [row.index(max(row)) for row in scores.T.tolist()]
    assert largest(scores).tolist() == expected


@pytest.mark.parametrize("size", [1, 31, 97, 2048])
@pytest.mark.parametrize("biased", [True, False])
def test_the_most_similar_vector_is_that_of_all_products(size, biased):
    generator = torch.Generator().manual_seed(0)
    table = F.normalize(torch.randn(size, 32, generator=generator), dim=1)
    rows = F.normalize(torch.randn(600, 32, generator=generator), dim=1)
    bias = torch.randn(size, generator=generator) if biased else None
    products = F.linear(rows.double(), table.double(), None if bias is None else bias.double())
    codes = most_similar(rows, table, bias)
    lost = products.amax(1) - products.gather(1, codes[:, None])[:, 0]
    assert float(lost.max()) < 1e-6
    assert float((codes == products.argmax(1)).double().mean()) > 0.995


def test_of_equal_vectors_the_lowest_code_is_taken():
    table = F.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1).repeat(3, 1)
    assert torch.equal(most_similar(table, table), torch.arange(50).repeat(3))


def test_rows_come_in_parts_whose_products_fit_into_a_cache():
    rows = torch.zeros(1000, 4)
    parts = list(in_parts(rows, 4096))
    assert sum(map(len, parts)) == 1000
    assert max(map(len, parts)) * 4096 <= 1 << 19
    assert [len(part) for part in in_parts(rows[:3], 1 << 30)] == [1, 1, 1]
