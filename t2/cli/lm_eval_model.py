"""What `lm_eval --model t2 --model_args ...` makes: the parts that the arguments name, as keys of `adapt.py`."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from t2.cli.compose import composed
from t2.cli.early_checks import check_base_model
from t2.evaluation.systems import Searcher
from t2.experts.pool import ExpertPool
from t2.experts.trained import apply_trained, check_mixable, load_trained
from t2.harness.lm_eval import MixtureLM
from t2.harness.plain_text import PlainText
from t2.policy.hf import HFGenerator
from t2.run.launch import USER_ERRORS, quiet_libraries

# Groups and keys of conf/adapt.yaml; of groups also the keys within, such as strategy.mixture.
ARGUMENTS = ("base_model", "adapter", "experts", "expert", "strategy", "generation", "pass2", "transfer", "seed")


class ModelArgsError(ValueError):
    """Model arguments that t2 cannot use; the message is for the user."""


class T2(MixtureLM):
    """The model that lm_eval calls `t2`."""

    def __init__(
        self,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        """`arguments` are the model arguments. Where lm_eval's own defaults arrive, t2's configuration stays.

        So `batch_size` 1 leaves generation.batch_rows, and `device` is not read: lm_eval's is cuda:0 where nothing is
        said. The device is the model argument base_model.device.

        Raises:
            ModelArgsError: what a configuration can get wrong.
        """
        try:
            if isinstance(batch_size, str) and not batch_size.isdigit():
                raise ValueError(f"--batch_size is {batch_size}; allowed: a number of rows.")
            if batch_size is not None and int(batch_size) > 1:
                arguments.setdefault("generation.batch_rows", int(batch_size))
            super().__init__(**parts(arguments))
        except InstantiationException as error:
            raise ModelArgsError(str(error.__cause__ or error)) from error
        except USER_ERRORS as error:
            raise ModelArgsError(str(error)) from error


def parts(arguments: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `MixtureLM` that model arguments stand for.

    Raises:
        ValueError: an argument that is none, or parts that do not go together.
        FileNotFoundError: an expert, or a pool's, is not there.
    """
    for key in arguments:
        if key.split(".")[0].split("@")[0] not in ARGUMENTS:
            raise ValueError(f"--model_args has {key}, which is none; allowed: {', '.join(ARGUMENTS)}, and their keys.")
    quiet_libraries()
    cfg = composed("adapt", arguments)
    strategy, pool = instantiate(cfg.get("strategy")), instantiate(cfg.get("experts"))
    if (strategy is None) != (pool is None):
        lacking = "experts=POOL" if pool is None else "strategy=S"
        raise ValueError(f"A strategy chooses among the experts of a pool, and {lacking} is not given.")
    if isinstance(strategy, Searcher):
        raise ValueError(
            f"strategy={strategy.name} finds a mixture on solved examples, which lm_eval does not give. Find it with "
            "adapt.py, and give strategy=fixed,strategy.mixture=RUN."
        )
    if strategy is not None and cfg.expert:
        raise ValueError("Both expert=RUN and a strategy are given, and one model answers. Leave one out.")
    return {
        "pool": pool, "strategy": strategy, "pass2": cfg.pass2, "transfer": cfg.transfer, "seed": cfg.seed,
        **generators(cfg, pool),
    }  # fmt: skip


def generators(cfg: DictConfig, pool: ExpertPool | None) -> dict[str, HFGenerator]:
    """The generators of chats and of plain texts, with the expert applied if there is one."""
    adapter = instantiate(cfg.adapter) if pool is not None or cfg.expert else None
    if adapter is not None:
        check_mixable(adapter, ["experts="] if pool is not None else [])
    expert = load_trained(cfg.expert, adapter) if cfg.expert and adapter is not None else None
    check_base_model(cfg, expert, pool)
    lm = instantiate(cfg.base_model)
    if adapter is not None:
        adapter.inject(lm.model, lm.source)
    if expert is not None:
        apply_trained(adapter, expert, source=lm.source, transfer=cfg.transfer)
    build, weights = instantiate(cfg.generation), "base" if adapter is None else "adapted"
    made = {
        "generator": build(lm=lm, adapter=adapter, weights=weights),
        "plain": build(lm=PlainText.of(lm), adapter=adapter, weights=weights),
    }
    if not isinstance(made["plain"], HFGenerator):
        raise ValueError(f"{type(made['plain']).__name__} has no log-likelihoods of given texts. Set generation=hf.")
    return made
