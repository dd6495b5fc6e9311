"""Fingerprints: the same weights in another precision agree, another revision does not."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2.experts.fingerprint import fingerprint_of, have_different_norms, largest_difference, same_weights

SINGULAR_VALUES = {"q": torch.tensor([3.0, 2.0, 1.0]), "up": torch.tensor([5.0, 4.0])}
FINGERPRINT = fingerprint_of(SINGULAR_VALUES)


def test_fingerprint_is_json_of_both_norms_with_six_digits_whatever_their_order():
    made = json.loads(fingerprint_of({"b": torch.tensor([4.0, 3.0]), "a": torch.tensor([1234567.0])}))
    assert made == {"a": [1234570.0, 1234570.0], "b": [7.0, 5.0]}
    assert fingerprint_of(dict(reversed(SINGULAR_VALUES.items()))) == FINGERPRINT


def test_bf16_copy_of_a_matrix_has_the_same_weights():
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(0))
    made = [fingerprint_of({"m": torch.linalg.svdvals(w)}) for w in (weight, weight.bfloat16().float())]
    assert same_weights(*made)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"m": 1000.0}', '{"m": 1000.15}', True),  # the tolerance is two parts in ten thousand
        ('{"m": 1000.0}', '{"m": 1000.3}', False),
        ('{"a": 1, "b": 2, "c": 3}', '{"a": 1, "b": 2.1, "c": 3}', False),
        ('{"m": 0.0}', '{"m": 0.0}', True),
        ('{"m": [9.0, 2.0]}', '{"m": 9.0}', True),  # an older t2 has the nuclear norm alone
        ('{"m": [9.0, 2.0]}', '{"m": [null, 2.0]}', True),  # where not all singular values were computed
        ('{"m": [9.0, 2.0]}', '{"m": [null, 2.1]}', False),
        ('{"m": [9.0, 2.0]}', '{"m": [9.0, 2.1]}', False),
        ('{"m": 9.0}', '{"m": [null, 9.0]}', False),  # different norms: nothing to compare
    ],
)
def test_weights_are_the_same_within_the_tolerance_in_every_module(one, other, same):
    assert same_weights(one, other) is same


@given(
    st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e6)),
    st.dictionaries(st.sampled_from("abc"), st.floats(0, 1e6)),
)
def test_same_weights_is_symmetric(a, b):
    first, second = json.dumps(a), json.dumps(b)
    assert same_weights(first, second) == same_weights(second, first)


def test_largest_difference_names_the_worst_shared_module():
    worst = largest_difference('{"a": 1.0, "b": 2.0, "x": 9.0}', '{"a": 1.1, "b": 4.0, "y": 1.0}')
    assert worst == ("b", pytest.approx(0.5))


@pytest.mark.parametrize(
    "text", ["", "0a1b2c", "[1, 2]", '{"m": "x"}', '{"m": null}', '{"m": NaN}', '{"m": [null, null]}', '{"m": [1.0]}']
)
def test_malformed_fingerprint(text):
    with pytest.raises(ValueError, match="A fingerprint is a JSON object"):
        same_weights(FINGERPRINT, text)


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "No singular values"), ({"m": torch.tensor([1.0, float("nan")])}, "of m sum to nan")],
)
def test_no_fingerprint_of_nothing_or_nan(values, message):
    with pytest.raises(ValueError, match=message):
        fingerprint_of(values)


def test_singular_values_that_were_not_computed_leave_the_frobenius_norm():
    partly = {"q": torch.tensor([3.0, 2.0, float("nan")]), "up": SINGULAR_VALUES["up"]}
    made = fingerprint_of(partly, {"q": 14**0.5, "up": 41**0.5})
    assert json.loads(made) == {"q": [None, 3.74166], "up": [9.0, 6.40312]}
    assert same_weights(made, FINGERPRINT)


def test_fingerprints_without_a_norm_in_common_are_told_from_those_without_a_module_in_common():
    assert have_different_norms('{"m": 9.0}', '{"m": [null, 9.0]}')
    assert not have_different_norms('{"m": 9.0}', '{"n": [null, 9.0]}')
    assert not have_different_norms('{"m": 9.0}', '{"m": [1.0, 9.0]}')
