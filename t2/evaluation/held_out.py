"""How well systems predict text that no task asks about: what adapting has made a model forget.

    loss       mean negative log-likelihood of a token after the first, in nats
    increase   that minus the base's on the same texts: `forgetting` of PEFT's method comparison, there on Wikipedia
    kl         mean KL(base || system) of the next token, in nats

Every text is cut to the same number of tokens, so that each weighs as much, and stands alone, without a chat template.
Systems with one set of weights are measured: the base, an expert, single experts and fixed mixtures. One that
chooses by the prompt is left out, since a text is none. Accuracy on other tasks is `benchmarks=`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from random import Random

import torch

from t2.adaptation.fixed import Fixed
from t2.adaptation.two_pass import TwoPass
from t2.adapters.base import Adapter
from t2.evaluation.results import HeldOut
from t2.evaluation.statistics import compare_scores
from t2.evaluation.system_names import BASE
from t2.models.language_model import LanguageModel
from t2.policy.generator import Generator
from t2.policy.hf import HFGenerator
from t2.policy.log_probs import token_log_probs
from t2.run.phases import Phases
from t2.tasks.row_source import RowSource
from t2.types import Completion

log = logging.getLogger(__name__)


class HeldOutText:
    """Texts of one data set, a column of its rows."""

    def __init__(
        self,
        name: str,
        column: str,
        split: str,
        hub_id: str | None = None,
        config: str | None = None,
        data_files: Mapping[str, str] | None = None,
        texts: int = 200,
        tokens: int = 128,
        batch_rows: int = 8,
        seed: int = 0,
    ) -> None:
        """Configures the texts. Nothing is read yet.

        Args:
            name: of the texts, in results.
            column: the column that is read.
            split: the split of the hub's data set, or the key of `data_files`.
            hub_id: `org/name` on the hub.
            config: configuration of the hub's data set.
            data_files: split -> local file or `pypi:` source, read instead of the hub.
            texts: how many, drawn from the distinct ones that are long enough.
            tokens: what each is cut to.
            batch_rows: texts in one forward pass.
            seed: of the draw.

        Raises:
            ValueError: a number outside its range, or neither a hub id nor a file.
        """
        for key, value, least in (("texts", texts, 2), ("tokens", tokens, 2), ("batch_rows", batch_rows, 1)):
            if value < least:
                raise ValueError(f"held_out.{key} is {value}; allowed: at least {least}.")
        self.name, self.texts, self.tokens, self.batch_rows = name, texts, tokens, batch_rows
        self._column, self._split, self._seed = column, split, seed
        self._source = RowSource(hub_id or (), config, data_files, f"held_out {name!r}", "held_out.data_files")

    def encode(self, lm: LanguageModel) -> list[Completion]:
        """The texts, each as the completion of its first token (BOS, where the tokenizer begins a text with it).

        Raises:
            ValueError: more tokens than the model's context, or fewer texts of that length than asked for.
        """
        if self.tokens > lm.context_length:
            raise ValueError(f"held_out.tokens is {self.tokens}; {lm.source} reads at most {lm.context_length}.")
        known = sorted({str(row[self._column]) for row in self._source.rows(self._split, (self._column,))})
        Random(self._seed).shuffle(known)
        found: list[Completion] = []
        for text in known:
            ids = lm.tokenizer(text)["input_ids"][: self.tokens]
            if len(ids) == self.tokens:
                rest = tuple(ids[1:])
                found.append(Completion(tuple(ids[:1]), rest, (0.0,) * len(rest), text, "length"))
            if len(found) == self.texts:
                return found
        raise ValueError(
            f"held_out.texts is {self.texts}, and {len(found)} texts of {self.name} have {self.tokens} tokens. Lower "
            "held_out.texts or held_out.tokens."
        )

    def measure(self, systems: Mapping[str, Generator]) -> dict[str, dict[str, HeldOut]]:
        """By the texts' name and system: loss, its increase over the base, and KL, of those with one set of weights.

        Raises:
            ValueError: what `encode` refuses, or a base that another engine generates with.
        """
        base = systems[BASE]
        if not isinstance(base, HFGenerator):
            raise ValueError(f"held_out needs generation=hf: {type(base).__name__} does not give log-probs of a text.")
        texts = self.encode(base.lm)
        losses, found = {}, {}
        for system, generator in systems.items():
            weights = _weights(generator)
            if weights is None:
                log.info("%s, %s: left out, since it chooses its weights by the prompt.", self.name, system)
                continue
            losses[system], kl = self._score(weights, texts, None if system == BASE else weights.adapter)
            found[system] = HeldOut(
                texts=len(texts),
                tokens=self.tokens,
                loss=sum(losses[system]) / len(texts),
                increase=None if system == BASE else compare_scores(losses[system], losses[BASE]),
                kl=kl,
            )
            log.info("%s, %s: %.4f nats a token", self.name, system, found[system].loss)
        return {self.name: found}

    @torch.no_grad()
    def _score(
        self, generator: HFGenerator, texts: Sequence[Completion], adapter: Adapter | None
    ) -> tuple[list[float], float | None]:
        """The mean loss of each text, and the mean KL of the base to the weights; None without an adapter."""
        losses, divergences = [], []
        with generator.applied() as select:
            for start in range(0, len(texts), self.batch_rows):
                batch = texts[start : start + self.batch_rows]
                select(len(batch))
                scored = token_log_probs(
                    generator.lm, batch, kl=None if adapter is None else "base_policy", adapter=adapter
                )
                losses += (-scored.log_probs).mean(dim=1).tolist()  # (N, T), no text is padded
                if scored.kl is not None:
                    divergences += scored.kl.mean(dim=1).tolist()
        return losses, sum(divergences) / len(divergences) if divergences else None


def _weights(generator: Generator) -> HFGenerator | None:
    """The generator of a system's weights; None where they depend on the prompt."""
    if isinstance(generator, HFGenerator):
        return generator
    if not isinstance(generator, TwoPass) or not isinstance(generator.strategy, Fixed):
        return None
    assert isinstance(generator.generator, HFGenerator), "the base has the same"
    return generator.generator.with_state(generator.pool.state(generator.strategy.mixture(generator.pool)))


def measure_held_out(
    texts: HeldOutText | None, systems: Mapping[str, Generator], phases: Phases
) -> dict[str, dict[str, HeldOut]] | None:
    """Losses on held-out texts by system; None without texts."""
    if texts is None:
        return None
    with phases("held_out"):
        return texts.measure(systems)
