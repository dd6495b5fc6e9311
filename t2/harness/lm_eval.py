"""lm-evaluation-harness asks, t2 answers: a model, an expert, or the mixture that a strategy chooses for each prompt.

    request                          mixture is chosen by               weights
    generate_until                   the context                        merged, or one per example (`pass2`)
    loglikelihood                    the context                        merged, a mixture at a time
    loglikelihood_rolling            the beginning of the text          likewise

With `--apply_chat_template` a strategy sees the last question instead of the text that the template made of it, which
is what it sees in `evaluate.py`. Text only; one process. Not done here: making the parts of a configuration
(`t2.cli.lm_eval_model`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from t2.adaptation.strategy import Choice, PooledModel, Strategy
from t2.adaptation.two_pass import Pass2, TwoPass, is_base
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.harness.plain_text import PlainText
from t2.policy.continuations import score_continuations
from t2.policy.hf import HFGenerator
from t2.tasks.base import Task
from t2.types import Example, Sampling

log = logging.getLogger(__name__)
GENERATION_KEYS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p")
Triple = tuple[tuple[str, str], list[int], list[int]]  # lm_eval's: (context, continuation), and the ids of both


class MixtureLM(TemplateLM):  # type: ignore[misc]
    """An `LM` of lm-evaluation-harness. `generator` takes chats, `plain` the same weights with a `PlainText` model."""

    def __init__(
        self,
        generator: HFGenerator,
        plain: HFGenerator,
        *,
        pool: ExpertPool | None = None,
        strategy: Strategy | None = None,
        pass2: Pass2 = "auto",
        transfer: bool = False,
        seed: int = 0,
    ) -> None:
        """Without a strategy the generator's own weights answer: the base's, or those of the adapter.

        Raises:
            ValueError: a strategy without a pool, a pool that does not fit, or a model that takes images.
        """
        super().__init__()
        assert isinstance(plain.lm, PlainText), "contexts are texts"
        if generator.lm.processor is not None:
            raise ValueError(f"{generator.lm.source} takes images, which lm_eval --model t2 does not. Take another.")
        self.generator, self.plain, self.lm, self.seed = generator, plain, plain.lm, seed
        self.tokenizer = generator.lm.tokenizer
        self.model = None
        self.two_pass = None
        if strategy is not None:
            if pool is None:
                raise ValueError(f"{strategy.name} would choose among the experts of a pool: give experts=POOL, too.")
            self.model, self.strategy = PooledModel(generator, pool), strategy
            self.two_pass = TwoPass(plain, pool, _Chosen(self._mixtures), pass2=pass2, transfer=transfer)
        self._chosen: dict[str, Mixture] = {}
        self._asked: dict[str, Example] = {}  # what the chat template made -> what it was made of

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        eos: int | None = self.tokenizer.eos_token_id
        return self.lm.pad_id if eos is None else eos

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        bos: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer, for lm_eval's caches."""
        return self.lm.source.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The token ids of a text, with BOS where the tokenizer puts one, unless `add_special_tokens` is False."""
        return self.lm.ids(string, special=add_special_tokens is not False)

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model's own template writes it.

        Raises:
            ValueError: the tokenizer has no chat template, or its template refuses the conversation.
        """
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{self.lm.source} has no chat template. Leave --apply_chat_template out.")
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(chat_history),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self.lm.chat_template_kwargs,
            )
        except TemplateError as error:
            raise ValueError(f"The chat template of {self.lm.source} refuses the conversation: {error}.") from error
        self._asked[text] = _example(chat_history)
        return text

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The completion of each request's context, as its generation keywords ask.

        Raises:
            ValueError: a keyword that t2 cannot follow.
        """
        by_sampling: dict[Sampling, list[int]] = {}
        for index, request in enumerate(requests):
            by_sampling.setdefault(sampling_of(request.args[1], self.seed), []).append(index)
        texts: dict[int, str] = {}
        generator = self.plain if self.two_pass is None else self.two_pass
        for sampling, indices in by_sampling.items():
            groups = generator.generate([Example(requests[index].args[0]) for index in indices], sampling)
            texts |= {index: group[0].text for index, group in zip(indices, groups, strict=True)}
        for index, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, texts[index])
        return [texts[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each text (nats), in windows of the context's length."""
        triples: list[Triple] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            (text,) = request.args
            ids = self.lm.ids(text, special=False)
            windows = get_rolling_token_windows(
                token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.lm.context_length, context_len=1
            )
            beginning = self.lm.decode(ids[: self.lm.context_length // 4])
            for context, continuation in map(make_disjoint_window, windows):
                triples.append((("", beginning), context, continuation))
                owners.append(index)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(triples), strict=True):
            totals[owner] += score
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[Triple], **_unused: Any) -> list[tuple[float, bool]]:
        """Log-likelihood (nats) and whether it is greedy, of each continuation after its context."""
        pairs = []
        for _, context, continuation in requests:
            room = self.lm.context_length + 1 - len(continuation)
            pairs.append((self.lm.cut(context, room), continuation))
        scores: dict[int, tuple[float, bool]] = {}
        for generator, indices in self._by_weights([context or text for (context, text), *_ in requests]):
            with generator.applied() as select:
                found = score_continuations(self.lm, [pairs[index] for index in indices], select)
            scores |= dict(zip(indices, found, strict=True))
        for index, (texts, *_) in enumerate(requests):
            self.cache_hook.add_partial("loglikelihood", texts, scores[index])
        return [scores[index] for index in range(len(requests))]

    def _by_weights(self, texts: Sequence[str]) -> list[tuple[HFGenerator, list[int]]]:
        """The generators of the mixtures that the texts choose, and the indices of the texts that do."""
        if self.model is None:
            return [(self.plain, list(range(len(texts))))]
        groups: dict[Mixture, list[int]] = {}
        for index, mixture in enumerate(self._mixtures(texts)):
            groups.setdefault(mixture, []).append(index)
        pool = self.model.pool
        return [
            (self.plain.with_state({} if is_base(mixture) else pool.state(mixture)), indices)
            for mixture, indices in groups.items()
        ]

    def _mixtures(self, texts: Sequence[str]) -> list[Mixture]:
        """The mixture of each text; each text chooses once."""
        assert self.model is not None, "there is a strategy"
        new = [text for text in dict.fromkeys(texts) if text not in self._chosen]
        if new:
            choices = self.strategy.choose(self.model, [self._asked.get(text, Example(text)) for text in new])
            self._chosen |= {text: choice.mixture for text, choice in zip(new, choices, strict=True)}
        return [self._chosen[text] for text in texts]


class _Chosen:
    """The strategy of the second pass: what the first one chose for the texts."""

    name, wants_support = "chosen", False

    def __init__(self, mixtures: Any) -> None:
        self.mixtures = mixtures

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Do nothing."""

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """A choice per example."""
        return [Choice(mixture) for mixture in self.mixtures([one.prompt for one in examples])]


def sampling_of(keywords: Mapping[str, Any], seed: int = 0) -> Sampling:
    """What lm_eval's generation keywords mean here.

    Raises:
        ValueError: one that t2 cannot follow, or a value outside what is allowed.
    """
    found = normalize_gen_kwargs(dict(keywords))
    if unknown := sorted(found.keys() - set(GENERATION_KEYS)):
        raise ValueError(f"t2 has no generation keyword {unknown[0]}; allowed: {', '.join(GENERATION_KEYS)}.")
    return Sampling(
        max_new_tokens=found["max_gen_toks"],
        temperature=found.get("temperature", 0.0),
        top_p=found.get("top_p", 1.0),
        stop=tuple(word for word in found["until"] if word),
        seed=seed,
    )


def _example(chat: Sequence[Mapping[str, str]]) -> Example:
    """A conversation as an example: its last question is the prompt, what comes before it are solved ones."""
    system = "\n\n".join(turn["content"] for turn in chat if turn["role"] == "system")
    turns = [turn for turn in chat if turn["role"] != "system"]
    begun = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
    shots = tuple((one["content"], other["content"]) for one, other in zip(turns[:-1:2], turns[1:-1:2], strict=True))
    return Example(turns[-1]["content"], system=system or None, response_prefix=begun, shots=shots)
