import pytest

from rexnet.serve.http_errors import HTTPError
from rexnet.serve.tensors import TensorSpec, checked_shape, from_json

NUMBERS = TensorSpec(name="image", datatype="FP32", shape=(-1, 2, 3))
PIXELS = TensorSpec(name="image", datatype="UINT8", shape=(-1, 2, 3))
NESTED = [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize("spec", [NUMBERS, PIXELS])
@pytest.mark.parametrize("data", [NESTED, [1, 2, 3, 4, 5, 6]])
def test_flat_and_nested_numbers_are_the_same(spec, data):
    assert from_json(data, spec, (1, 2, 3)).tolist() == NESTED


@pytest.mark.parametrize(
    "data",
    [
        ["a" * 1_000_000, *[0] * 1_000_000],  # NumPy would make 4 TB of it
        ["a" * 1_000_000, *[0] * 5],
        [True] * 6,
        [None] * 6,
        ["1"] * 6,
        [10**400] * 6,
        [1e39] * 6,
        [float("nan")] * 6,
        [[[1, 2, 3], [4, 5]]],
        [[[1, 2, 3], [4, 5, [6]]]],
        [1, 2, 3, 4, 5],
        [[]] * 1000,
        {"0": 1},
        "123456",
        5,
    ],
)
def test_invalid_numbers_and_shapes(data):
    for spec in (NUMBERS, PIXELS):
        with pytest.raises(HTTPError) as caught:
            from_json(data, spec, (1, 2, 3))
        assert caught.value.status == 400 and len(caught.value.message) < 300


def test_only_a_batch_without_other_axes_may_have_a_trailing_one():
    encoded = TensorSpec(name="encoded", datatype="BYTES", shape=(-1,))
    assert checked_shape([3], encoded, most=4) == checked_shape([3, 1], encoded, most=4) == (3,)
    one = TensorSpec(name="encoded", datatype="BYTES", shape=(1,))
    for shape, spec in (([5, 1], encoded), ([3, True], encoded), ([3, 1, 1], encoded), ([1, 1], one)):
        with pytest.raises(HTTPError, match="allowed: ") as caught:
            checked_shape(shape, spec, most=4)
        assert str(shape) in caught.value.message


def test_pixels_are_whole_numbers_of_one_byte():
    for wrong in (-1, 256, 1.0, 2**70):
        with pytest.raises(HTTPError):
            from_json([0, 0, 0, 0, 0, wrong], PIXELS, (1, 2, 3))


def test_an_error_quotes_only_a_part_of_huge_or_deep_values():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for shape in ([1] * 1_000_000, deep, 10**4000, {"a" * 10_000: 1}):
        with pytest.raises(HTTPError) as caught:
            checked_shape(shape, NUMBERS, most=2)
        assert len(caught.value.message) < 300
