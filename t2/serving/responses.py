"""Answers of OpenAI's API, as types of the `openai` package, with the extension `t2`: what pass 1 found.

    "t2": {"label": "sums", "scores": {"sums": 0.9, ...}, "mixing_weights": {"sums": 1.0, ...},
           "pass1_s": 0.04, "pass2_s": 0.71}

In a stream it comes on the first chunk, before the first token, and with `pass2_s` on the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any
from uuid import uuid4

from openai.types import Completion, CompletionChoice, CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage, ChatCompletionTokenLogprob
from openai.types.chat.chat_completion import Choice as ChatChoice
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs

from t2.experts.pool import ExpertPool
from t2.models.language_model import LanguageModel
from t2.serving.job import Chosen
from t2.serving.token_bytes import bytes_of_token
from t2.types import FinishReason

UNFINISHED = "\ufffd"  # what a tokenizer puts for bytes that are no whole sign yet


@dataclass
class Answer:
    """The text of one sample, as its tokens come."""

    lm: LanguageModel
    stops: tuple[str, ...]
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish: FinishReason | None = None
    sent: int = 0  # signs of the text

    def add(self, token_id: int, log_prob: float, finish: FinishReason | None) -> None:
        """Take a token."""
        self.tokens.append(token_id)
        self.log_probs.append(log_prob)
        self.finish = finish

    @property
    def text(self) -> str:
        """The text so far, cut before a stop string."""
        text = self.lm.decode(self.tokens)
        cuts = [text.index(stop) for stop in self.stops if stop in text]
        return text[: min(cuts)] if cuts else text

    def new_text(self) -> str:
        """What has come since the last call, without an end that may still turn out to begin a stop string."""
        text = self.text
        end = len(text)
        if self.finish is None:
            end = len(text.rstrip(UNFINISHED))
            end -= max((_overlap(text[:end], stop) for stop in self.stops), default=0)
        new = text[self.sent : end]
        self.sent = max(self.sent, end)
        return new

    def token_log_probs(self, first: int = 0) -> list[ChatCompletionTokenLogprob]:
        """Each token with its log-prob, from number `first` on."""
        found = []
        for token, log_prob in zip(self.tokens[first:], self.log_probs[first:], strict=True):
            own = bytes_of_token(self.lm.tokenizer, token)
            text = self.lm.tokenizer.decode([token]) if own is None else own.decode(errors="replace")
            known = None if own is None else list(own)
            found.append(ChatCompletionTokenLogprob(token=text, bytes=known, logprob=log_prob, top_logprobs=[]))
        return found


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text that begins `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def extension(chosen: Chosen, pool: ExpertPool | None, pass2_s: float | None) -> dict[str, Any]:
    """What pass 1 found, as the key `t2` of an answer."""
    domains = () if pool is None else pool.domains
    means = dict(zip(domains, chosen.choice.mixture.means, strict=True)) if domains else {}
    return {
        "label": chosen.choice.label,
        "scores": dict(chosen.choice.scores),
        "mixing_weights": means,
        "pass1_s": chosen.pass1_s,
        "pass2_s": pass2_s,
    }


@dataclass(frozen=True)
class Writer:
    """Writes the answers to one request; `chat` says which of the two kinds."""

    chat: bool
    model: str
    log_probs: bool = False
    id: str = field(default_factory=lambda: uuid4().hex)
    created: int = field(default_factory=lambda: int(time()))

    def whole(self, answers: Sequence[Answer], usage: CompletionUsage, t2: Any) -> str:
        """The answer in one piece, as JSON; `t2` is the extension, a list of them for several prompts."""
        common: dict[str, Any] = {"created": self.created, "model": self.model, "usage": usage, "t2": t2}
        made: ChatCompletion | Completion
        if self.chat:
            choices = [
                ChatChoice(
                    index=index,
                    finish_reason=one.finish or "length",
                    message=ChatCompletionMessage(role="assistant", content=one.text),
                    logprobs=ChoiceLogprobs(content=one.token_log_probs()) if self.log_probs else None,
                )
                for index, one in enumerate(answers)
            ]
            made = ChatCompletion(id=f"chatcmpl-{self.id}", object="chat.completion", choices=choices, **common)
        else:
            parts = [
                CompletionChoice(index=index, finish_reason=one.finish or "length", text=one.text)
                for index, one in enumerate(answers)
            ]
            made = Completion(id=f"cmpl-{self.id}", object="text_completion", choices=parts, **common)
        return made.model_dump_json(exclude_unset=True)

    def opening(self, samples: int, t2: Any) -> str:
        """The first chunk of a stream: the role of each sample, and what pass 1 found."""
        if not self.chat:
            return self._text([(index, "", None) for index in range(samples)], t2=t2)
        choices = [
            ChunkChoice(index=index, delta=ChoiceDelta(role="assistant", content="")) for index in range(samples)
        ]
        return self._chunk(choices, t2=t2)

    def piece(self, index: int, answer: Answer, text: str, first: int, **extra: Any) -> str:
        """A chunk with new text of one sample, whose tokens from number `first` on are new."""
        if not self.chat:
            return self._text([(index, text, answer.finish)], **extra)
        choice = ChunkChoice(
            index=index,
            delta=ChoiceDelta(content=text) if text else ChoiceDelta(),
            finish_reason=answer.finish,
            logprobs=ChunkLogprobs(content=answer.token_log_probs(first)) if self.log_probs else None,
        )
        return self._chunk([choice], **extra)

    def closing(self, usage: CompletionUsage) -> str:
        """The chunk after the last, without choices: what was used."""
        return self._chunk([], usage=usage) if self.chat else self._text([], usage=usage)

    def _chunk(self, choices: list[ChunkChoice], **extra: Any) -> str:
        made = ChatCompletionChunk(
            id=f"chatcmpl-{self.id}",
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
            **extra,
        )
        return made.model_dump_json(exclude_unset=True)

    def _text(self, parts: Sequence[tuple[int, str, FinishReason | None]], **extra: Any) -> str:
        made = Completion.construct(
            id=f"cmpl-{self.id}",
            object="text_completion",
            created=self.created,
            model=self.model,
            choices=[
                CompletionChoice.construct(index=index, text=text, finish_reason=finish)
                for index, text, finish in parts
            ],
            **extra,
        )
        return made.model_dump_json(exclude_unset=True)
