"""Requests of OpenAI's API as pydantic models: what is understood, and which values can be answered.

A key that is not known is refused, and so is a known one whose value would ask for something that is not done: an
answer that ignores what was asked for is worse than none. The `openai` package has types of responses, which
`t2.serving.responses` uses; its types of requests have no bounds, and keys for much that no model here does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from t2.types import Example

SEPARATOR = "\n\n"  # between messages of one role that follow each other
Text = Annotated[str, Field(max_length=2**20)]
# Known keys, and the values that ask for nothing: anything else would have to be ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "top_logprobs": (None, 0),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "store": (None, False),
    "parallel_tool_calls": (None, False, True),
    "service_tier": (None, "auto", "default"),
}
NOTED = ("user", "metadata", "safety_identifier")  # of the client's own; nothing depends on them


class Strict(BaseModel):
    """A model that refuses keys it does not know, and converts no strings to numbers."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """A message of a chat; the content of one with several parts is put together."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Strict):
    """What a stream holds beside text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Extension(Strict):
    """What OpenAI's API does not have: a mixture given by hand, which replaces what the model's name would choose."""

    mixing_weights: dict[str, Annotated[float, Field(strict=False)]] | None = None


class Request(Strict):
    """What both kinds of request have."""

    model: Annotated[str, Field(max_length=200)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    stop: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    t2: Extension | None = None

    @model_validator(mode="before")
    @classmethod
    def _neutral(cls, values: Any) -> Any:
        """Take out keys that change nothing, and refuse those that would have to."""
        if not isinstance(values, dict):
            return values
        for name, allowed in NEUTRAL.items():
            if name in values and not any(values[name] is one or values[name] == one for one in allowed):
                raise ValueError(f"{name} is not supported; leave it out.")
        return {name: value for name, value in values.items() if name not in NEUTRAL and name not in NOTED}

    @model_validator(mode="after")
    def _options(self) -> Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options are for stream=true.")
        return self

    @field_validator("stop")
    @classmethod
    def _few(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > 4:
            raise ValueError(f"stop has {len(stop)} strings; allowed: at most 4.")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False

    @property
    def example(self) -> Example:
        """The chat as an example: its last message is the prompt that pass 1 looks at.

        Raises:
            ValueError: the roles are in another order than system, user, assistant, user, ..., user.
        """
        turns: list[tuple[str, str]] = []
        for message in self.messages:
            role = "system" if message.role == "developer" else message.role
            if turns and turns[-1][0] == role:
                turns[-1] = (role, turns[-1][1] + SEPARATOR + message.text)
            else:
                turns.append((role, message.text))
        system = turns.pop(0)[1] if turns[0][0] == "system" else None
        expected = ["user", "assistant"] * (len(turns) // 2) + ["user"]
        if [role for role, _ in turns] != expected:
            raise ValueError(
                f"messages have the roles {', '.join(message.role for message in self.messages)}; allowed: a system "
                "message first, if any, then user and assistant in turn, and the user's last."
            )
        texts = [text for _, text in turns]
        if not texts[-1].strip():
            raise ValueError("messages: the last one is empty. Give a question.")
        return Example(prompt=texts[-1], system=system, shots=tuple(zip(texts[:-1:2], texts[1:-1:2], strict=True)))


class CompletionRequest(Request):
    """POST /v1/completions."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=128)]
    logprobs: None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = 16

    @property
    def examples(self) -> list[Example]:
        """The prompts, as they stand.

        Raises:
            ValueError: one is empty.
        """
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not all(prompt.strip() for prompt in prompts):
            raise ValueError("prompt: one is empty. Give a text to go on with.")
        return [Example(prompt=prompt) for prompt in prompts]
