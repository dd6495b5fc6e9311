"""Serve a model that adapts itself, over OpenAI's API: python serve.py experts=POOL strategies=[classifier,prompt]

Its models are `base`, each expert of the pool, and each strategy; docs/serving.md has the requests.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from t2.adaptation.strategy import PooledModel, Strategy
from t2.adapters.svf import SVF
from t2.cli.early_checks import check_base_model, check_fixed
from t2.cli.main import run
from t2.evaluation.systems import Searcher
from t2.experts.pool import ExpertPool
from t2.policy.hf import HFGenerator
from t2.run.launch import quiet_libraries
from t2.run.messages import check_choice
from t2.types import OTHER, Example

log = logging.getLogger(__name__)
INSTALL = 'Serving needs FastAPI, uvicorn, prometheus-client and openai: pip install "transformer2[serve]".'


def serve(cfg: DictConfig) -> None:
    """Load the model and answer requests until a signal comes."""
    try:
        import fastapi
        import openai
        import prometheus_client
        import uvicorn
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    del fastapi, openai, prometheus_client, uvicorn
    from t2.serving.app import Service, make_app
    from t2.serving.applied import Unmerged
    from t2.serving.backends import Backend, Model
    from t2.serving.catalog import Catalog, by_name
    from t2.serving.metrics import Metrics
    from t2.serving.server import bind, run_server
    from t2.serving.settings import read_api_key

    quiet_libraries()
    # What the configuration alone can get wrong comes before the model is loaded.
    if cfg.api_key_file is not None and not Path(cfg.api_key_file).is_file():
        raise FileNotFoundError(
            f"api_key_file={cfg.api_key_file}: there is no such file. Give one whose first line is the key."
        )
    key, settings = read_api_key(cfg.api_key_file, cfg.host), instantiate(cfg.limits)
    backend: Backend = instantiate(cfg.backend)
    pool: ExpertPool | None = instantiate(cfg.get("experts"))
    strategies = by_name(compose_strategies(cfg, pool))
    check_fixed(strategies.values(), pool)
    check_base_model(cfg, pool=pool)
    examples = known_examples(cfg, pool)
    with bind(cfg.host, cfg.port) as listening:
        lm = instantiate(cfg.base_model)
        pooled, adapter = None, None
        if pool is not None:
            adapter = instantiate(cfg.adapter)
            if not isinstance(adapter, SVF):
                raise ValueError(f"adapter is {type(adapter).__name__}; mixtures of experts need SVF: set adapter=svf.")
            adapter.inject(lm.model, lm.source)
            pool.check(adapter, source=lm.source, transfer=cfg.transfer)
            pooled = PooledModel(HFGenerator(lm, Unmerged(adapter)), pool)
            for strategy in strategies.values():  # it fits the pool, and what its first prompt takes is over
                strategy.choose(pooled, [Example("What is 3 + 4?")])
        catalog, metrics = Catalog(lm, pooled, strategies), Metrics()
        with backend.engine(Model(lm, pooled, adapter), settings, metrics) as engine:
            app = make_app(Service(catalog, engine, settings, metrics, examples), key)
            host, port = listening.getsockname()[:2]
            where = f"[{host}]" if ":" in host else host
            log.info("Models: %s\nServing on http://%s:%d/v1; Ctrl-C ends it.", ", ".join(catalog.names), where, port)
            run_server(app, engine, listening, settings)


def compose_strategies(cfg: DictConfig, pool: ExpertPool | None) -> list[Strategy]:
    """The strategies that `strategies` names, each with its configuration of the group; those of None by the pool.

    Raises:
        ValueError: an unknown one, one that needs to be fitted to a task, or one without experts to choose among.
    """
    if cfg.strategies is None:
        names = [] if pool is None else possible(pool)
    else:
        names = [str(name) for name in ([cfg.strategies] if isinstance(cfg.strategies, str) else cfg.strategies)]
    if names and pool is None:
        raise ValueError(f"strategies={names} choose among the experts of a pool, and experts=POOL is not given.")
    made, allowed = [], GlobalHydra.instance().config_loader().get_group_options("strategy")
    for name in dict.fromkeys(names):
        check_choice("strategies: one", name, allowed)
        whole = hydra.compose("serve", overrides=[f"+strategy@chosen={name}"])
        strategy: Any = instantiate(whole.chosen)
        if isinstance(strategy, Searcher):
            raise ValueError(
                f"strategy={name} finds a mixture for a task and answers nothing by itself. Find one first (adapt.py), "
                "and serve it as a strategy `fixed` of your own --config-dir."
            )
        made.append(strategy)
    return made


def possible(pool: ExpertPool) -> list[str]:
    """The strategies that need nothing but what is in the pool."""
    found = {"classifier": pool.dispatch is not None, "centroid": pool.centroids is not None, "prompt": True}
    return [name for name, has in found.items() if has]


def known_examples(cfg: DictConfig, pool: ExpertPool | None) -> dict[str, Sequence[str]]:
    """The prompts of the domains that there are, and those for no expert."""
    given: Any = OmegaConf.to_container(cfg.examples, resolve=True)
    domains = (OTHER,) if pool is None else (*pool.domains, OTHER)
    return {domain: given[domain] for domain in domains if domain in given}


if __name__ == "__main__":
    run("serve")
