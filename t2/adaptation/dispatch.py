r"""Dispatch by prompt: asks the model which domain a prompt belongs to (paper §3.2 A and B, Figure 3).

    score      log-likelihoods of the labels, in one prefill (`t2.policy.label_scores`)
    generate   the paper's way: the model writes the category in \boxed{}

`other`, and a completion that names no domain, mean the base model; the authors' code keeps the previous group's expert
there. Hard choices give one expert mixing weight 1; soft ones give each expert the probability of its label, and the
probability of `other` to no expert. Models favor some labels whatever the prompt: contextual calibration (Zhao et al.
2021, arXiv 2102.09690) subtracts the scores of a content-free prompt. With `expert="dispatch"` (the
paper's classification expert) the pool's dispatch expert is active while scoring, with the prompts it was trained on
(`t2.tasks.dispatch`). Nothing is fitted here, and nothing generates with a mixture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Literal, get_args

import torch
from torch import Tensor

from t2.adaptation.strategy import Choice, PooledModel
from t2.experts.compatibility import DISPATCH
from t2.experts.expert import Expert
from t2.experts.mixture import Mixture
from t2.experts.pool import ExpertPool
from t2.policy.label_scores import score_labels
from t2.run.messages import check_choice
from t2.run.places import typed
from t2.tasks.base import Task
from t2.tasks.dispatch import Dispatch, answer_text, category_list, check_labels, dispatch_example
from t2.tasks.splits import same_text
from t2.types import OTHER, Example, Sampling

Mode = Literal["score", "generate"]
Shot = tuple[str, str]  # a question and its label

CONTENT_FREE = "N/A"
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
FONT = re.compile(r"\\(?:text|math)[a-z]*\s*\{([^{}]*)\}")  # \text{math}, \mathrm{math}
AROUND = re.compile(r"^(?:\s*category\s*:)?[\s\"'`*]*|[\s\"'`*.]*$", re.IGNORECASE)
ANSWER_TOKENS = 32  # the box, and a few words before it
BOXED_INSTRUCTION = r"""Classify the question below into one of these categories:

{categories}

If several fit, choose the one that matters most for answering. Do not answer the question itself.
Give the name of the category in \boxed{{}}, in the form: \boxed{{category}}"""


class PromptDispatch:
    """Asks the model for the domain of each prompt, among those of the pool and `other`."""

    wants_support = False

    def __init__(
        self,
        mode: Mode = "score",
        soft: bool = False,
        temperature: float = 1.0,
        calibrate: bool = True,
        expert: Literal["dispatch"] | None = None,
        examples: Mapping[str, Sequence[str]] | Dispatch | None = None,
        shots: int | None = None,
        name: str = "prompt",
    ) -> None:
        """Set how the model is asked.

        Args:
            mode: `score` or `generate`; the next three are for `score` only.
            soft: mixing weights are the labels' probabilities, instead of 1 for the most likely.
            temperature: of softmax(score / temperature).
            calibrate: take off the scores of a prompt without content.
            expert: active while scoring; None: the base.
            examples: solved ones for the instruction: label -> prompts, or the train split of a task `dispatch`.
            shots: how many of them for each label; None: all that the mapping has.

        Raises:
            ValueError: values outside what is allowed, or that contradict each other.
        """
        check_choice("mode", mode, get_args(Mode))
        if expert not in (None, "dispatch"):
            raise ValueError(f"expert is {expert!r}; allowed: dispatch (the pool's), or null for the base.")
        if not 0.0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}; allowed: a number above 0.")
        if mode == "generate" and soft:
            raise ValueError("soft mixes by the labels' scores, and mode=generate has none; set mode=score.")
        if expert is not None and (mode == "generate" or examples is not None):
            raise ValueError(
                "The dispatch expert was trained to answer with the bare label, without examples. "
                "Apply it with mode=score and examples=null."
            )
        self.name = name
        self._mode, self._soft, self._temperature, self._calibrate = mode, soft, temperature, calibrate
        self._uses_dispatch_expert = expert is not None
        self._shots = _interleaved(examples, shots)

    def fit(self, model: PooledModel, task: Task, support: Sequence[Example]) -> None:
        """Do nothing: only the prompts decide."""

    def trained_on(self, pool: ExpertPool, task: Task) -> dict[str, frozenset[str] | None]:
        """The prompts of the pool's dispatch expert, where it is applied."""
        if not self._uses_dispatch_expert or pool.dispatch is None:
            return {}
        return {DISPATCH: pool.dispatch.metadata.prompts}

    def choose(self, model: PooledModel, examples: Sequence[Example]) -> list[Choice]:
        """B examples -> B choices, in the order of the examples.

        Raises:
            ValueError: domains that are no labels, an example of no domain of the pool, no dispatch expert where one
                is to be applied, an empty prompt, or one that is an example of the instruction.
        """
        descriptions = {domain: expert.metadata.description for domain, expert in model.pool.experts.items()}
        check_labels(descriptions)
        for _, label in self._shots:
            check_choice("a label of the examples", label, (*descriptions, OTHER))
        dispatch = self._dispatch_expert(model)
        self._check_prompts(examples)
        if not examples:
            return []
        if self._mode == "generate":
            return self._generated(model, examples, descriptions)
        return self._scored(model, examples, descriptions, dispatch)

    def _generated(
        self, model: PooledModel, examples: Sequence[Example], descriptions: Mapping[str, str]
    ) -> list[Choice]:
        """Choices from the categories that the base model writes."""
        asked = [
            replace(boxed_example(one.prompt, descriptions, shots=self._shots), images=one.images) for one in examples
        ]
        sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
        groups = model.generator.with_state({}).generate(asked, sampling)  # no state: z = 1, the base
        choices = []
        for (completion,) in groups:
            label = boxed_label(completion.text, descriptions)
            choices.append(Choice(_hard(label, descriptions), label, tokens=len(completion.token_ids)))
        return choices

    def _scored(
        self,
        model: PooledModel,
        examples: Sequence[Example],
        descriptions: Mapping[str, str],
        dispatch: Expert | None,
    ) -> list[Choice]:
        """Choices from the log-likelihoods of the labels."""
        labels = (*descriptions, OTHER)
        questions = [*examples, *([Example(CONTENT_FREE)] if self._calibrate else [])]
        asked = [dispatch_example(one.prompt, descriptions, shots=self._shots, images=one.images) for one in questions]
        with model.under(dispatch):
            scores = score_labels(
                model.lm, asked, [answer_text(label) for label in labels]
            ).double()  # (B, K + 1), one more row where calibrated
        if not bool(scores.isfinite().all()):
            raise ValueError(f"Some labels' scores under {model.lm.source} are NaN or infinite; check its weights.")
        if self._calibrate:
            scores = scores[:-1] - scores[-1]
        return [self._choice(row, labels) for row in torch.softmax(scores / self._temperature, dim=1)]

    def _choice(self, probabilities: Tensor, labels: Sequence[str]) -> Choice:
        """The choice for probabilities (K + 1,) of the domains and `other`."""
        *experts, _ = values = probabilities.tolist()
        label = labels[int(probabilities.argmax())]
        mixture = Mixture.of(*experts) if self._soft else _hard(label, labels[:-1])
        return Choice(mixture, label, dict(zip(labels, values, strict=True)))

    def _dispatch_expert(self, model: PooledModel) -> Expert | None:
        if not self._uses_dispatch_expert:
            return None
        if model.pool.dispatch is None:
            raise ValueError(
                f"The strategy {self.name!r} applies the pool's dispatch expert, and this pool has none. Train one "
                f"({typed('train')} experiment=experts/dispatch) and add it to the pool as `dispatch`, or take "
                "strategy=centroid, for which nothing is trained."
            )
        return model.pool.dispatch

    def _check_prompts(self, examples: Sequence[Example]) -> None:
        solved = {same_text(question) for question, _ in self._shots}
        for example in examples:
            if not example.images and same_text(example.prompt) in solved:
                raise ValueError(
                    f"The prompt {example.prompt[:60]!r} is also one of the solved examples in the instruction, which "
                    "gives its label away. Take other examples."
                )


def boxed_example(question: str, descriptions: Mapping[str, str], *, shots: Sequence[Shot] = ()) -> Example:
    r"""The question for a domain as in the paper, to be answered with \boxed{label}.

    Raises:
        ValueError: the question is empty.
    """
    if not question.strip():
        raise ValueError("The prompt is empty, so it belongs to no domain. Give a question.")
    instruction = BOXED_INSTRUCTION.format(categories=category_list(descriptions))
    solved = [f"Question: {text}\nCategory: \\boxed{{{label}}}" for text, label in shots]
    return Example("\n\n".join([instruction, *solved, f"Question: {question}\nCategory:"]))


def boxed_label(text: str, domains: Mapping[str, str]) -> str:
    r"""The domain in the first \boxed{} of a text, in any case; `other` for everything else."""
    found = BOXED.search(text)
    named = AROUND.sub("", FONT.sub(r"\1", found[1]).replace("\\_", "_")).casefold() if found else OTHER
    return next((domain for domain in domains if domain.casefold() == named), OTHER)


def _hard(label: str, domains: Sequence[str] | Mapping[str, str]) -> Mixture:
    """Mixing weight 1 for the expert of the label and 0 for the others; all 0 for `other`."""
    return Mixture.of(*(float(domain == label) for domain in domains))


def _interleaved(examples: Mapping[str, Sequence[str]] | Dispatch | None, shots: int | None) -> tuple[Shot, ...]:
    """Solved examples with the labels in turn: in blocks, the last label would become the likeliest.

    Raises:
        ValueError: `shots` without examples or below 1, a task without `shots`, or fewer examples than asked for.
    """
    if shots is not None and shots < 1:
        raise ValueError(f"shots is {shots}; allowed: at least 1, or null.")
    if examples is None:
        if shots is not None:
            raise ValueError(f"shots is {shots} without examples; give examples, or set shots=null.")
        return ()
    if isinstance(examples, Dispatch):
        if shots is None:
            raise ValueError("examples is a task, and shots is null; say how many of each label to take.")
        examples = _by_label(examples)
    for label, prompts in examples.items():
        if not prompts or len(prompts) < (shots or 1):
            raise ValueError(f"There are {len(prompts)} examples of {label!r}; shots asks for {shots or 'some'}.")
    columns = [[(prompt, label) for prompt in prompts[:shots]] for label, prompts in sorted(examples.items())]
    return tuple(shot for shot in chain.from_iterable(zip_longest(*columns)) if shot is not None)


def _by_label(task: Dispatch) -> dict[str, list[str]]:
    """Label -> its prompts in the train split."""
    prompts: dict[str, list[str]] = {}
    for example in task.split("train"):
        prompts.setdefault(str(example.answer), []).append(str(example.metadata["question"]))
    return prompts
