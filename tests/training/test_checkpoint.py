"""The identity of a checkpoint: other frozen weights are refused wherever they differ."""

from __future__ import annotations

import logging

import pytest
import torch
from tiny_models import adapted

from t2.adapters.svf import SVF
from t2.models.language_model import LanguageModel
from t2.training.checkpoint import check_identity, identity_of


def changed(where: str) -> tuple[LanguageModel, SVF]:
    lm, svf = adapted()
    with torch.no_grad():
        if where == "adapted":
            next(iter(svf.singular_values.values())).mul_(1.001)
        elif where != "nothing":
            dict(lm.model.named_parameters())[where].mul_(1.001)
    return lm, svf


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("adapted", r"other weights of that model\. Their weights differ"),
        ("model.embed_tokens.weight", r"1 of \d+ parameters differ, model\.embed_tokens\.weight"),
        ("model.norm.weight", r"model\.norm\.weight"),
    ],
)
def test_other_weights_of_the_same_model_are_refused(where: str, message: str) -> None:
    saved = identity_of(*changed("nothing"))
    check_identity(saved, identity_of(*changed("nothing")))
    with pytest.raises(ValueError, match=message):
        check_identity(saved, identity_of(*changed(where)))


def test_training_leaves_the_identity_as_it_is() -> None:
    lm, svf = adapted()
    saved = identity_of(lm, svf)
    svf.load({name: z * 1.1 for name, z in svf.state().items()})
    check_identity(saved, identity_of(lm, svf))


def test_a_checkpoint_without_a_fingerprint_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    present = identity_of(*adapted())
    with caplog.at_level(logging.WARNING):
        check_identity({key: present[key] for key in ("base_model", "trainable")}, present)
    assert "older t2" in caplog.text
