"""What several commands check as soon as the parts are there, before a model is loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from hydra.utils import get_method
from omegaconf import DictConfig

from t2.adaptation.fixed import Fixed
from t2.adaptation.strategy import Strategy
from t2.experts.lora_expert import LoraExpert
from t2.experts.pool import ExpertPool
from t2.experts.trained import Trained
from t2.models.loading import load_model
from t2.run.base_model import words_for_source
from t2.run.messages import check_choice

log = logging.getLogger(__name__)
FAR = 2.0  # a mixing weight beyond it applies an expert's change more than twice


def check_samples(sampling: DictConfig) -> None:
    """Raise ValueError for several samples of a prompt where all would be the same."""
    if sampling.samples > 1 and sampling.temperature == 0:
        raise ValueError(
            f"sampling.samples is {sampling.samples} at sampling.temperature=0, where all samples of a prompt are the "
            "same. Set sampling.temperature above 0, or sampling.samples=1."
        )


def check_base_model(cfg: DictConfig, trained: Trained | None = None, pool: ExpertPool | None = None) -> None:
    """Raise ValueError where an expert is of another model than the one that would be loaded, unless `cfg.transfer`.

    Weights are compared when the model is there; so is a model that another function than `load_model` makes.
    """
    pooled = () if pool is None else (*pool.experts.values(), pool.dispatch)
    experts = [one for one in (trained, *pooled) if one is not None and not isinstance(one, LoraExpert)]
    if not experts or cfg.get("transfer") or get_method(cfg.base_model._target_) is not load_model:
        return
    for one in experts:
        known, chosen = one.metadata.base_model, cfg.base_model.source
        if known != chosen:
            allowed = ", or set transfer=true to use it on this one" if "transfer" in cfg else ""
            raise ValueError(
                f"The expert of {one.metadata.domain!r} was trained for {known}, and base_model is {chosen}. Choose "
                f"its base_model ({words_for_source(known)}){allowed}."
            )


def check_fixed(strategies: Iterable[Strategy], pool: ExpertPool | None, *, more: Sequence[str] = ()) -> None:
    """Check the mixtures that are given against the pool, and warn of mixing weights that are far from 0.

    `more` are domains that the pool will have later; without any, a saved mixture is read, too.

    Raises:
        ValueError: mixing weights of a domain that the pool lacks, or a mixture that was saved for another pool.
        FileNotFoundError: there is no such mixture.
    """
    domains = [*(() if pool is None else pool.domains), *more]
    for strategy in strategies:
        if not isinstance(strategy, Fixed):
            continue
        if pool is not None and not more:
            warn_of_far(dict(zip(pool.domains, strategy.mixture(pool).means, strict=True)))
            continue
        for domain in strategy.weights or {}:
            check_choice("A domain of strategy.weights", domain, domains)
        warn_of_far(strategy.weights or {})


def warn_of_far(weights: Mapping[str, float]) -> None:
    """Log mixing weights, by domain, beyond `FAR`."""
    if far := {domain: weight for domain, weight in weights.items() if abs(weight) > FAR}:
        log.warning(
            "Mixing weights beyond %g: %s. 1 applies an expert as it was trained, and 0 not at all; so far from there "
            "a model may answer nothing of use.",
            FAR,
            ", ".join(f"{domain} {weight:g}" for domain, weight in far.items()),
        )
