"""Adapt to a prompt, or to a task: python adapt.py experts=POOL strategy=S prompt="What is 3 + 4?"

prompt=TEXT, prompt=- (lines of standard input), prompt_file=PATH (a prompt a line), interactive=true
    pass 1's scores and mixture as bars, and the completions of the strategy, of the base and, with expert=RUN, of
    that expert
task=T strategy=few_shot shots=10
    finds a mixture on solved examples of the task and saves it as `mixture.json` in the run folder
task=T strategy=centroid
    makes the centroids of the pool's domains out of the dispatch task T, and saves them as `centroids.safetensors`
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from t2.adaptation.centroid import Centroid
from t2.adaptation.strategy import Choice, PooledModel
from t2.adaptation.two_pass import TwoPass
from t2.adapters.svf import SVF
from t2.cli.early_checks import check_base_model, check_fixed, check_samples
from t2.cli.main import run
from t2.cli.prompts import ask, read_prompts
from t2.evaluation.results import Results, Support
from t2.evaluation.solved_examples import choose_support
from t2.evaluation.system_names import BASE, EXPERT
from t2.evaluation.systems import Searcher
from t2.evaluation.tables import bars, history_table
from t2.evaluation.wandb_results import log_adapted, log_search, summary_of, weights_text
from t2.experts.centroids import Centroids
from t2.experts.mixture_file import MIXTURE_FILE
from t2.experts.pool import ExpertPool
from t2.experts.trained import apply_trained, check_mixable, load_trained
from t2.models.language_model import PromptTooLong
from t2.models.precision import Precision
from t2.policy.generator import AdaptableGenerator, Generator
from t2.run.launch import quiet_libraries
from t2.run.phases import Phases
from t2.run.results import CENTROIDS_FILE
from t2.run.tracking import tracked, wandb_runs
from t2.run.words import for_shell
from t2.tasks.base import Task
from t2.tasks.dispatch import Dispatch
from t2.types import Completion, Example

log = logging.getLogger(__name__)


def adapt(cfg: DictConfig) -> list[dict[str, Completion]]:
    """Fit the strategy to the task, if there is one, and complete the prompts; returns completions by system."""
    start, phases = time.perf_counter(), Phases()
    quiet_libraries()
    # What the configuration alone can get wrong comes before the model is loaded.
    log.info("Precision: %s", Precision.of(cfg.base_model, cfg.generation))
    check_samples(cfg.sampling)
    prompts = read_prompts(cfg)
    task, strategy, pool = (instantiate(cfg.get(part)) for part in ("task", "strategy", "experts"))
    check(cfg, strategy=strategy, pool=pool, task=task, completes=bool(prompts) or cfg.interactive)
    support: Sequence[Example] = ()
    if task is not None:
        support = choose_support(task, shots=cfg.shots, split=cfg.support_split, seed=cfg.seed, scored=())
    adapter = instantiate(cfg.adapter)
    check_mixable(adapter, ["experts="] if pool is not None else [])
    expert = load_trained(cfg.expert, adapter) if cfg.expert else None
    check_base_model(cfg, expert, pool)
    lm = instantiate(cfg.base_model)
    with phases("svd" if isinstance(adapter, SVF) else "inject"):
        adapter.inject(lm.model, lm.source)
    build = instantiate(cfg.generation)
    generator: AdaptableGenerator = build(lm=lm, adapter=adapter)
    systems: dict[str, Generator] = {BASE: build(lm=lm, adapter=adapter, weights="base")}
    if expert is not None:
        apply_trained(adapter, expert, source=lm.source, transfer=cfg.transfer)
        systems[EXPERT] = generator
    if strategy is not None:
        systems[strategy.name] = TwoPass(generator, pool, strategy, pass2=cfg.pass2, transfer=cfg.transfer)
    loggers = list(instantiate(cfg.get("logger") or {}).values())
    configuration: Any = OmegaConf.to_container(cfg, resolve=True)
    with tracked(loggers, configuration):
        if strategy is not None:
            model = PooledModel(generator, pool)
            if task is not None:
                with phases("fit"):
                    strategy.fit(model, task, support)
            if isinstance(strategy, Searcher):
                results = save(cfg, model, strategy, task, phases, start=start)
                mixture = Path(cfg.paths.run) / MIXTURE_FILE
                log_search(wandb_runs(loggers), summary_of(results), strategy.history, mixture, task=task.name)
            elif isinstance(strategy, Centroid) and strategy.centroids is not None:
                save_centroids(Path(cfg.paths.run), strategy.centroids)
        rows: list[dict[str, Any]] = []
        completions = complete(cfg, systems, prompts, rows) if prompts else []
        if cfg.interactive:
            completions += converse(cfg, systems, rows)
        log_adapted(wandb_runs(loggers), rows)
    return completions


def converse(
    cfg: DictConfig, systems: Mapping[str, Generator], rows: list[dict[str, Any]]
) -> list[dict[str, Completion]]:
    """Complete what is typed until an empty line or the end; of a prompt that is too long it is said."""
    completions: list[dict[str, Completion]] = []
    while line := ask():
        try:
            completions += complete(cfg, systems, [line], rows)
        except PromptTooLong as error:
            print(error)
    return completions


def check(cfg: DictConfig, *, strategy: Any, pool: ExpertPool | None, task: Task | None, completes: bool) -> None:
    """Raise ValueError where the parts leave nothing to do, or lack one another."""
    if (strategy is None) != (pool is None):
        lacking = "experts=POOL" if pool is None else "strategy=S"
        raise ValueError(f"A strategy chooses among the experts of a pool, and {lacking} is not given.")
    check_fixed([strategy] if strategy is not None else [], pool)
    if strategy is None and not cfg.expert:
        raise ValueError("There is nothing to adapt with: give expert=RUN, or experts=POOL with strategy=S.")
    finds = isinstance(strategy, Searcher)
    shots = getattr(strategy, "shots", 0)
    if finds and cfg.shots < shots:
        raise ValueError(f"strategy.shots is {shots}, and shots={cfg.shots} are given to it: set shots={shots}.")
    if finds and task is None:
        raise ValueError(
            f"strategy={strategy.name} finds a mixture for a task: give task=T, or take one that was found before: "
            "strategy=fixed strategy.mixture=RUN."
        )
    makes = isinstance(strategy, Centroid) and isinstance(task, Dispatch)
    if isinstance(strategy, Centroid) and task is not None and not makes:
        raise ValueError(
            f"Centroids are made of a dispatch task, and {task.name} is none: give one, such as task=dispatch, or "
            "leave the task out."
        )
    if task is not None and not (finds or makes):
        what = "expert=RUN" if strategy is None else f"strategy={strategy.name}"
        raise ValueError(
            f"task={task.name} is given, and nothing is fitted to it: {what} takes a prompt alone. Leave task out, or "
            "find a mixture for it (experts=POOL strategy=few_shot)."
        )
    if not (finds or makes or completes):
        raise ValueError("There is nothing to answer: give prompt=TEXT, prompt_file=PATH or interactive=true.")


def save(
    cfg: DictConfig, model: PooledModel, strategy: Searcher, task: Task, phases: Phases, *, start: float
) -> Results:
    """Show the mixture that was found, and write `mixture.json` and `results.json`; returns what the latter holds."""
    assert strategy.mixture is not None, "it was fitted"
    run = Path(cfg.paths.run)
    strategy.save(run / MIXTURE_FILE, model.pool, task)
    weights = dict(zip(model.pool.domains, strategy.mixture.means, strict=True))
    fitness = max(line.best for line in strategy.history)
    results = Results(
        command="adapt",
        base_model=model.lm.source,
        adapter=type(model.adapter).__name__,
        task=task.name,
        strategy=strategy.name,
        trainable_parameters=sum(map(len, strategy.mixture.weights)),
        headline=fitness,
        scores={},  # the support is no test: see evaluate.py
        paired={},
        mixing_weights={task.name: {strategy.name: weights}},
        support=Support(n=strategy.shots, split=cfg.support_split, fitness=fitness),
        seconds={**phases.total_seconds, "total": time.perf_counter() - start},
        seed=cfg.seed,
    ).write(run)
    print(f"\n{history_table(strategy.history).text()}")
    print(f"\nFitness on {strategy.shots} support examples of {task.name}: {fitness:.3f}\n")
    print(f"Mixing weights\n{bars(weights)}")
    log.info("Mixture: %s\nNext: strategy=fixed %s", run / MIXTURE_FILE, for_shell("strategy.mixture", run))
    return results


def save_centroids(run: Path, centroids: Centroids) -> None:
    """Write `centroids.safetensors`, and show how good each layer was on training prompts."""
    path = centroids.save(run / CENTROIDS_FILE)
    if centroids.accuracy:
        shares = {f"layer {layer}": share for layer, share in centroids.accuracy.items()}
        print(f"\nAccuracy of each layer in cross-validation\n{bars(shares)}")
    log.info("Centroids, layer %d: %s\nNext: %s", centroids.layer, path, for_shell("experts.centroids", run))


def complete(
    cfg: DictConfig, systems: Mapping[str, Generator], prompts: Sequence[str], rows: list[dict[str, Any]]
) -> list[dict[str, Completion]]:
    """Show every system's completions of each prompt with what pass 1 found, append them to `rows`, for a logger, and
    return the first of each."""
    sampling = instantiate(cfg.sampling, seed=cfg.seed)
    examples = [Example(prompt=prompt, system=cfg.system) for prompt in prompts]
    groups = {system: generator.generate(examples, sampling) for system, generator in systems.items()}
    completions = [{system: of[index][0] for system, of in groups.items()} for index in range(len(prompts))]
    for index, prompt in enumerate(prompts):
        if len(prompts) > 1:
            print(f"\n>>> {prompt}")
        for system, generator in systems.items():
            chosen = {}
            if isinstance(generator, TwoPass):
                show_choice(system, generator.choices[index], generator.pool)
                chosen = choice_columns(generator.choices[index], generator.pool)
            samples = groups[system][index]
            for number, sample in enumerate(samples, start=1):
                which = system if len(samples) == 1 else f"{system}, {number} of {len(samples)}"
                print(f"\n[{which}]\n{sample.text.strip()}")
                rows.append({"prompt": prompt, "system": system, "answer": sample.text.strip(), **chosen})
    return completions


def choice_columns(choice: Choice, pool: ExpertPool) -> dict[str, Any]:
    """What pass 1 found for one prompt, as columns of a table."""
    return {
        "chosen": choice.label,
        "mixing_weights": weights_text(dict(zip(pool.domains, choice.mixture.means, strict=True))),
    }


def show_choice(system: str, choice: Choice, pool: ExpertPool) -> None:
    """Print what pass 1 found for one prompt."""
    label = "" if choice.label is None else f": {choice.label}"
    print(f"\n[pass 1, {system}{label}]")
    if choice.scores:
        print(f"Scores\n{bars(choice.scores)}")
    print(f"Mixing weights\n{bars(dict(zip(pool.domains, choice.mixture.means, strict=True)))}")


if __name__ == "__main__":  # how Lightning starts further processes of `t2 adapt`
    run("adapt")
