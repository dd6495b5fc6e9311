"""Few-shot adaptation by gradient: mixing weights that make the model's own right answers likelier. Beyond the paper.

    round     sample completions of the support examples under the present mixture, and grade them
    step      maximize the log-probs of the right ones by their gradient in the mixing weights (Adam)

The mixture is z' = 1 + Σ α_k (z_k - 1) (`ExpertPool.scales_of`), so a backward pass gives the gradient of all K, or
K M, mixing weights at once, which a search has to find by trying. The first mixture has all of them at 1. Loss:

    likelihood        minus the mean log-prob per token of right completions, each example's share the same
    policy_gradient   completions weighted by their score minus the mean of the others' (RLOO, arXiv 2402.14740): wrong
                      ones count, too, and examples that are always right or always wrong do not

The result is the best on the support set, by greedy accuracy, of the base, the uniform mixture, the first one and that
after each round, as in `t2.adaptation.few_shot`; it serves all examples. Nothing but the support set decides.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from t2.adaptation.few_shot import FewShot, Fitted, Iteration
from t2.adaptation.fitness import Accuracy
from t2.adaptation.mixture_space import MixtureSpace
from t2.adaptation.search import Fitness
from t2.adaptation.strategy import PooledModel
from t2.adaptation.two_pass import call_seed
from t2.adapters.base import PerExampleAdapter
from t2.experts.mixture import Mixture
from t2.policy.log_probs import token_log_probs
from t2.policy.packing import micro_batches
from t2.run.messages import check_choice, check_range
from t2.tasks.base import Task, grade, greedy
from t2.types import Completion, Example

log = logging.getLogger(__name__)
LossName = Literal["likelihood", "policy_gradient"]
MICRO_BATCH_TOKENS = 1024  # prompt and completion tokens of one forward and backward, padding included


@dataclass(frozen=True)
class GradientSettings:
    """How the mixing weights are learned: `rounds` of `samples` completions an example, and `steps` of Adam on each."""

    loss: LossName = "likelihood"
    rounds: int = 4
    samples: int = 4
    steps: int = 2
    lr: float = 0.1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for values outside what is allowed."""
        check_choice("strategy.settings.loss", self.loss, get_args(LossName))
        check_range("strategy.settings.rounds", self.rounds, at_least=1)
        check_range("strategy.settings.samples", self.samples, at_least=2 if self.loss == "policy_gradient" else 1)
        check_range("strategy.settings.steps", self.steps, at_least=1)
        check_range("strategy.settings.lr", self.lr, above=0.0, below=float("inf"))
        check_range("strategy.settings.temperature", self.temperature, above=0.0, below=float("inf"))


class Gradient(FewShot):
    """Learns one mixture for a task by the gradient of its mixing weights.

    Args:
        shots: how many support examples are used, the first of those given; each counts the same.
        settings: of the optimization.
        per_matrix: a mixing weight per expert and matrix, instead of one per expert.
        seed: the source of every random choice.
        progress: show a progress bar.
    """

    name = "gradient"

    wants_support = True

    def __init__(
        self,
        shots: int = 10,
        settings: GradientSettings | None = None,
        per_matrix: bool = False,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        """Keep the choices; nothing is computed before `fit`.

        Raises:
            ValueError: values outside what is allowed.
        """
        super().__init__(shots, space=MixtureSpace(per_matrix=per_matrix), seed=seed, progress=progress)
        self.settings = settings or GradientSettings()

    def _fit(self, model: PooledModel, task: Task, examples: Sequence[Example]) -> Fitted:
        """Alternate between sampling and steps; the result is the best mixture met."""
        if not isinstance(model.adapter, PerExampleAdapter):
            raise ValueError(
                f"{type(model.adapter).__name__} has no gradient in mixing weights, which strategy=gradient needs. Set "
                "adapter=svf."
            )
        if model.adapter.why_one_state is not None:
            raise ValueError(f"{model.adapter.why_one_state} strategy=gradient needs them. Use strategy=few_shot.")
        measure, space, experts = Accuracy(model, task, examples), self.spaces[0], len(model.pool.domains)
        weights = torch.ones(experts, space.columns(len(model.pool.modules)), requires_grad=True)
        adam = torch.optim.Adam([weights], lr=self.settings.lr)
        met = [Mixture.base(experts), Mixture.of(*(1.0 / experts,) * experts), _mixture(weights)]
        found = dict(zip(met, measure(met), strict=True))
        history: list[Iteration] = []
        # A policy gradient is that of the distribution that is sampled from; what is right is imitated at 1.
        of_policy = self.settings.temperature if self.settings.loss == "policy_gradient" else 1.0
        rounds = tqdm(
            range(self.settings.rounds),
            f"{self.name} {task.name}",
            leave=False,
            disable=None if self.progress else True,
        )
        for number in rounds:
            completions, scores = self._sample(model, task, examples, _mixture(weights), number)
            shares = self._shares(scores)
            if not bool(shares.any()):
                log.info("Round %d: no completion to learn from (%.0f %% right).", number, 100 * float(scores.mean()))
            else:
                for _ in range(self.settings.steps):
                    adam.zero_grad()
                    backward(model, weights, completions, shares.flatten().tolist(), temperature=of_policy)
                    adam.step()
            mixture = _mixture(weights)
            (found[mixture],) = measure([mixture])
            best = max(found.values())
            history.append(_line(number, space, best, float(scores.mean()), weights.detach()))
        return Fitted(
            mixture=max(found, key=lambda one: found[one]),  # of equals the first
            best=max(found.values()),
            space=space,
            history=tuple(history),
            pool=(model.pool.identity, model.pool.domains),
            support=tuple(example.prompt for example in examples),
        )

    def _sample(
        self, model: PooledModel, task: Task, examples: Sequence[Example], mixture: Mixture, number: int
    ) -> tuple[list[Completion], Tensor]:
        """G completions of each of B examples under the mixture, one list of B * G, and their scores (B, G)."""
        sampling = replace(
            greedy(task),
            temperature=self.settings.temperature,
            samples=self.settings.samples,
            seed=call_seed(self.seed, number),
        )
        groups = model.generator.with_state(model.pool.state(mixture)).generate(examples, sampling)
        scores = [
            [grade(task, example, one.text).score for one in group]
            for example, group in zip(examples, groups, strict=True)
        ]
        return [one for group in groups for one in group], torch.tensor(scores)

    def _shares(self, scores: Tensor) -> Tensor:
        """The weight of each completion's log-prob in the objective (B, G); scores (B, G)."""
        if self.settings.loss == "policy_gradient":
            others = (scores.sum(dim=1, keepdim=True) - scores) / (scores.shape[1] - 1)
            return (scores - others) / scores.numel()
        totals = scores.sum(dim=1, keepdim=True)
        shares = torch.where(totals > 0, scores / totals.clamp(min=1e-9), 0.0)
        return shares / max(1, int((totals > 0).sum()))

    def _about(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings)}


def backward(
    model: PooledModel,
    weights: Tensor,
    completions: Sequence[Completion],
    shares: Sequence[float],
    *,
    temperature: float = 1.0,
) -> None:
    """Add to `weights.grad` the gradient of minus the sum over completions of share * mean log-prob per token.

    Mixing weights are (K, 1) or (K, M); completions with share 0 cost nothing. `temperature` divides the logits.
    """
    assert isinstance(model.adapter, PerExampleAdapter), "checked before"
    kept = [(one, share) for one, share in zip(completions, shares, strict=True) if share != 0.0]
    rows = [one for one, _ in kept]
    for batch in micro_batches(rows, MICRO_BATCH_TOKENS, shared=False):
        with torch.enable_grad(), model.adapter.per_example(model.pool.scales_of(weights[None])) as select:
            select(torch.zeros(len(batch), dtype=torch.long, device=model.lm.index_device))
            token = token_log_probs(model.lm, [rows[row] for row in batch], temperature=temperature)
            means = token.log_probs.sum(dim=1) / token.mask.sum(dim=1)  # padding is zero
            loss = -(means * means.new_tensor([kept[row][1] for row in batch])).sum()
            loss.backward()  # type: ignore[no-untyped-call]


def _mixture(weights: Tensor) -> Mixture:
    """The mixture of mixing weights (K, 1) or (K, M)."""
    return Mixture(tuple(tuple(row) for row in weights.detach().tolist()))


def _line(number: int, space: MixtureSpace, best: Fitness, right: float, weights: Tensor) -> Iteration:
    """A line of the history; `mean` is the mean score of the samples, `weight_std` the spread over matrices."""
    return Iteration(
        iteration=number,
        per_matrix=space.per_matrix,
        normalize=False,
        best=best.value,
        likelihood=best.likelihood,
        mean=right,
        weight_mean=tuple(weights.mean(dim=1).tolist()),
        weight_std=tuple(weights.std(dim=1, unbiased=False).tolist()),
    )
