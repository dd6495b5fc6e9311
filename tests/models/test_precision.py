"""One place says which types a run computes in, and refuses those that would lose what is learned."""

import pytest

from t2.models.precision import PrecisionPolicy, check_trainer_precision, kl_floor_note


def test_the_policy_is_said_in_one_line():
    assert str(PrecisionPolicy()) == "model float32, multipliers float32, logits float32, rollouts float32"
    assert str(PrecisionPolicy("float16", "auto")).endswith("rollouts float16")
    assert str(PrecisionPolicy("float32", "bfloat16")).endswith("rollouts bfloat16")


@pytest.mark.parametrize("policy", [("fp16", None), ("float32", "half")])
def test_an_unknown_type_is_refused(policy):
    with pytest.raises(ValueError, match="allowed: float32, bfloat16, float16"):
        PrecisionPolicy(*policy)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true", 16, "64-true", "64"])
def test_the_casts_of_the_trainer_are_refused(precision):
    with pytest.raises(ValueError, match=r"trainer\.precision is .*base_model\.dtype"):
        check_trainer_precision(precision)


@pytest.mark.parametrize("precision", [None, 32, "32", "32-true"])
def test_what_casts_nothing_is_taken(precision):
    check_trainer_precision(precision)


@pytest.mark.parametrize(
    ("dtype", "coefficient", "noted"), [("float32", 0.1, False), ("bfloat16", 0.0, False), ("bfloat16", 0.1, True)]
)
def test_the_floor_of_a_kl_is_said_where_it_is_weighed(dtype, coefficient, noted):
    assert (kl_floor_note(PrecisionPolicy(dtype), coefficient) is not None) is noted
