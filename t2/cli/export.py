"""Write an adapted model for other programs: python export.py expert=RUN to=hf out=FOLDER

to=hf      a folder that transformers loads, with W' in place of W for every adapted matrix
to=lora    a folder that PEFT loads beside the base model; rank=k keeps the k largest changes of singular values
to=gguf    a folder with the GGUF file that the base came from, its adapted matrices replaced, for llama.cpp
to=hub     a repository of the Hugging Face hub: the expert's file and a model card; dry_run=false pushes it

Exported is an expert (expert=RUN), or a mixture of a pool's experts (experts=POOL with mixture=RUN, or with
'weights={DOMAIN: 1.0}').
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from t2.adapters.base import Adapter, ExportableAdapter, adapter_name
from t2.adapters.svf import SVF
from t2.cli.early_checks import check_base_model, warn_of_far
from t2.cli.main import run
from t2.evaluation.table import Table
from t2.experts.expert import EXPERT_FILE, Expert, apply_expert
from t2.experts.export_gguf import export_gguf, source_file
from t2.experts.export_hf import check_shard_size, export_hf
from t2.experts.export_hub import check_asked, check_repo, export_hub, find_token, holds_export, push
from t2.experts.export_lora import Truncated, export_lora, total_error, truncate
from t2.experts.hub_card import read_scores
from t2.experts.mixture import Mixture
from t2.experts.mixture_file import find_mixture, load_mixture
from t2.experts.pool import ExpertPool
from t2.experts.provenance import of_expert, of_mixture
from t2.experts.trained import EXPORT_FOLDER
from t2.run.fetch import file_sha256
from t2.run.files import check_empty
from t2.run.launch import quiet_libraries
from t2.run.messages import check_choice
from t2.run.results import RESULTS_FILE
from t2.run.words import for_shell

log = logging.getLogger(__name__)
WORST = 5  # matrices whose errors are shown


def export(cfg: DictConfig) -> Path:
    """Load the model, apply the expert or the mixture, and write the folder; returns it."""
    quiet_libraries()
    # What the configuration alone can get wrong comes before the model is loaded.
    check(cfg)
    out = Path(cfg.out)
    if cfg.to == "hub" and not cfg.dry_run and holds_export(out, Expert.find(cfg.expert)):
        check_asked(out, asked_for(cfg))
        log.info("Pushed to %s, as %s holds it", push(out, cfg.repo, find_token()), out)
        return out
    check_empty(out)
    adapter = instantiate(cfg.adapter)
    if not isinstance(adapter, SVF):
        raise ValueError(no_svf(cfg, adapter))
    path = Expert.find(cfg.expert) if cfg.expert else None
    expert = Expert.load(path) if path is not None else None
    if cfg.to == "hub":
        assert path is not None and expert is not None, "checked"  # noqa: PT018  # both or none
        return publish(cfg, expert, path, out)
    pool: ExpertPool | None = instantiate(cfg.get("experts"))
    mixture = None if pool is None else read_mixture(cfg, pool)
    check_base_model(cfg, expert, pool)
    lm = instantiate(cfg.base_model)
    adapter.inject(lm.model, lm.source)
    if path is not None and expert is not None:
        apply_expert(adapter, expert, source=lm.source, transfer=cfg.transfer)
        state, applied = expert.scales, of_expert(expert, path)
    else:
        assert pool is not None, "checked"
        assert mixture is not None, "there is a pool"
        pool.check(adapter, source=lm.source, transfer=cfg.transfer)
        if pool.loras and cfg.to not in ("hf", "gguf"):
            raise ValueError(
                f"The mixture has LoRAs ({', '.join(pool.loras)}), which to=hf and to=gguf alone can write. Set to=hf."
            )
        state, applied = pool.state(mixture), of_mixture(pool, mixture)
    start = perf_counter()
    write(cfg, lm, adapter, state, out, applied)
    size = sum(inside.stat().st_size for inside in out.rglob("*") if inside.is_file())
    loaded = out / "model.gguf" if cfg.to == "gguf" else out
    hint = NEXT[cfg.to].format(folder=str(out), file=shlex.quote(str(loaded)), source=for_shell(SOURCE, loaded))
    log.info("Exported to %s: %.1f MB in %.1f s\n%s", out, size / 1e6, perf_counter() - start, hint)
    return out


SOURCE = "base_model.source"
NEXT = {
    "hf": "Next: transformers.AutoModelForCausalLM.from_pretrained({folder!r}), or base_model=any {source}",
    "gguf": "Next: llama-cli -m {file}, or base_model=any {source}",
    "lora": "Next: peft.PeftModel.from_pretrained(model, {folder!r}), where model is the base model that was adapted",
}


def check(cfg: DictConfig) -> None:
    """Raise ValueError where the configuration names nothing to export, several things, or no place for it."""
    has_pool = cfg.get("experts") is not None
    if (cfg.expert is not None) == has_pool:
        got = "both are given" if has_pool else "neither is given"
        raise ValueError(f"Exported is one expert (expert=RUN) or a mixture of a pool (experts=POOL), and {got}.")
    given = [key for key in ("mixture", "weights") if cfg[key] is not None]
    if given and not has_pool:
        raise ValueError(f"{given[0]} is given, and mixes the experts of a pool: give experts=POOL in place of expert.")
    if has_pool and len(given) != 1:
        got = "both are given" if given else "neither is given"
        raise ValueError(
            f"A pool is exported as one mixture, mixture=RUN or 'weights={{DOMAIN: 1.0}}', and {got}. Give one; a "
            "strategy that chooses for every prompt has no single model."
        )
    if cfg.out is None:
        raise ValueError("There is no place for the export: give out=FOLDER, a new folder.")
    if cfg.to == "hub":
        check_hub(cfg, has_pool=has_pool)
    if cfg.rank is not None and cfg.to != "lora":
        raise ValueError(f"rank is {cfg.rank}, and to={cfg.to} has no rank: leave it out, or set to=lora.")
    check_shard_size(cfg.max_shard_size)
    if cfg.to == "gguf":
        source_file(cfg.base_model.get("source", cfg.base_model._target_))


def no_svf(cfg: DictConfig, adapter: Adapter) -> str:
    """Why nothing is exported with another adapter than SVF, and where what was trained with one of PEFT's is."""
    name = adapter_name(adapter)
    if not isinstance(adapter, ExportableAdapter):
        return f"adapter is {name}, and export.py writes experts of SVF: set adapter=svf, or leave adapter out."
    run = cfg.expert or "RUN"
    return (
        f"adapter is {name}, and export.py writes experts of SVF. A training run with adapter={name} has written its "
        f"adapter as PEFT reads it: peft.PeftModel.from_pretrained(model, {str(Path(run) / EXPORT_FOLDER)!r}), where "
        "model is its base model."
    )


def check_hub(cfg: DictConfig, *, has_pool: bool) -> None:
    """Raise ValueError where a repository lacks its name, its licence or, for a push, the token; or is no expert's."""
    if has_pool:
        raise ValueError("to=hub publishes one expert, and a mixture is of several: give expert=RUN, each by itself.")
    check_repo(cfg.repo)
    if cfg.license is None:
        raise ValueError("There is no licence for the card: give license=ID, such as license=apache-2.0 (of the base).")
    if not cfg.dry_run:
        find_token()


def asked_for(cfg: DictConfig) -> dict[str, str | None]:
    """The keys that decide what a repository holds beside the expert; FileNotFoundError: there are no such results."""
    run = None if cfg.results is None else Path(cfg.results)
    file = run / RESULTS_FILE if run is not None and run.is_dir() else run
    return {"repo": cfg.repo, "license": cfg.license, "results": None if file is None else file_sha256(file)}


def publish(cfg: DictConfig, expert: Expert, path: Path, out: Path) -> Path:
    """Write the repository's folder, and push it unless it is a dry run; returns the folder. No model is loaded."""
    own = path.with_name(RESULTS_FILE if path.name == EXPERT_FILE else "none")  # of a training run
    run = Path(cfg.results) if cfg.results is not None else (own if own.is_file() else None)
    scores = [] if run is None else read_scores(run, expert, file_sha256(path))
    asked = asked_for(cfg)
    export_hub(expert, path, out, repo=cfg.repo, license=cfg.license, scores=scores, asked=asked)
    if cfg.dry_run:
        log.info("A dry run: %s is what %s would hold. Next: read its README.md, then dry_run=false", out, cfg.repo)
    else:
        log.info("Pushed to %s", push(out, cfg.repo, find_token()))
    return out


def read_mixture(cfg: DictConfig, pool: ExpertPool) -> Mixture:
    """The mixture that was found, or the one of the mixing weights.

    Raises:
        FileNotFoundError: there is no such mixture.
        ValueError: it is of another pool, or the pool lacks a domain.
    """
    if cfg.mixture is not None:
        return load_mixture(find_mixture(cfg.mixture), pool)
    for domain in cfg.weights:
        check_choice("A domain of weights", domain, pool.domains)
    warn_of_far(cfg.weights)
    return Mixture.of(*(cfg.weights.get(domain, 0.0) for domain in pool.domains))


def write(
    cfg: DictConfig, lm: Any, adapter: SVF, state: Mapping[str, Tensor], out: Path, applied: Mapping[str, Any]
) -> None:
    """Write the folder in the chosen format."""
    if cfg.to == "hf":
        export_hf(lm, adapter, state, out, applied=applied, max_shard_size=cfg.max_shard_size)
        return
    if cfg.to == "gguf":
        export_gguf(lm, adapter, state, out, file=source_file(lm.source), applied=applied)
        return
    truncated = truncate(adapter, state, cfg.rank)
    export_lora(lm, adapter, state, out, truncated=truncated, applied=applied)
    show_errors(truncated)


def show_errors(truncated: list[Truncated]) -> None:
    """Print what a LoRA leaves out of the changes: the worst matrices and all together."""
    worst = sorted(truncated, key=lambda one: -one.relative_error)[:WORST]
    rows = [(one.module, str(one.rank), f"{one.relative_error:.3f}") for one in worst]
    rows.append(("all matrices", str(max(one.rank for one in truncated)), f"{total_error(truncated):.3f}"))
    print(f"\nRelative error of the changes (0: exact)\n{Table(('matrix', 'rank', 'error'), rows).text()}\n")


if __name__ == "__main__":  # how Lightning starts further processes of `t2 export`
    run("export")
