"""The answer to a request: its prompts go to the engine, and the events that come back become text.

An answer that nobody waits for any longer is cancelled, whatever the reason: the client hung up, the time is over, or
the server failed. Not done here: checking requests (`t2.serving.prepare`), routes (`t2.serving.app`), the model
(`t2.serving.engine`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from openai.types import CompletionUsage

from t2.serving.catalog import Catalog
from t2.serving.engine import STOPPED, Engine, QueueFull, Stopping
from t2.serving.errors import APIError
from t2.serving.job import Ask, Chosen, Ended, Event, Failed, Job, Token
from t2.serving.responses import Answer, Writer, extension
from t2.serving.settings import Settings

Got = TypeVar("Got")


@dataclass
class Answering:
    """One request: its prompts (several of /v1/completions), and their jobs once they are submitted."""

    catalog: Catalog
    engine: Engine
    settings: Settings
    asks: Sequence[Ask]
    writer: Writer
    include_usage: bool = False
    jobs: list[Job] = field(default_factory=list)
    events: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue)
    deadline_s: float = 0.0  # by the loop's clock

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(ask.prompt_ids) for ask in self.asks)

    def submit(self) -> None:
        """Let all prompts wait for the model.

        Raises:
            APIError: 429 where too many wait, 503 where the server is stopping.
        """
        loop = asyncio.get_running_loop()
        self.deadline_s = loop.time() + self.settings.timeout_s
        try:
            for number, ask in enumerate(self.asks):
                self.jobs.append(self.engine.submit(ask, self._emitter(loop, number)))
        except QueueFull as error:
            self.cancel()
            raise APIError(429, str(error), code="queue_full") from error
        except Stopping as error:
            self.cancel()
            raise APIError(503, str(error), code="stopping") from error

    def cancel(self) -> None:
        """Free the places of what has not ended."""
        for job in self.jobs:
            job.cancel()

    async def whole(self) -> str:
        """The answer in one piece.

        Raises:
            APIError: there is none, or not in time.
        """
        answers = self._answers()
        chosen: dict[int, Chosen] = {}
        seconds: dict[int, float] = {}
        try:
            while len(seconds) < len(self.jobs):
                number, event = await self._event()
                if isinstance(event, Chosen):
                    chosen[number] = event
                elif isinstance(event, Token):
                    answers[number][event.sample].add(event.token_id, event.log_prob, event.finish)
                elif isinstance(event, Ended):
                    seconds[number] = event.pass2_s
        finally:
            self.cancel()
        found = [extension(chosen[n], self.catalog.pool, seconds[n]) for n in range(len(self.jobs))]
        flat = [answer for group in answers for answer in group]
        return self.writer.whole(flat, self._usage(flat), found[0] if len(found) == 1 else found)

    async def chunks(self) -> AsyncGenerator[str, None]:
        """The answer as chunks of JSON, the last one `[DONE]`; needs a single prompt.

        Raises:
            APIError: there is no answer, or not in time.
        """
        (answers,) = self._answers()
        try:
            async for chunk in self._pieces(answers):
                yield chunk
        finally:
            self.cancel()
        if self.include_usage:
            yield self.writer.closing(self._usage(answers))
        yield "[DONE]"

    async def _pieces(self, answers: Sequence[Answer]) -> AsyncGenerator[str, None]:
        """The chunks from the one with what pass 1 found to the one with the last token."""
        _, chosen = await self._event()
        assert isinstance(chosen, Chosen), "pass 1 comes first"
        yield self.writer.opening(len(answers), extension(chosen, self.catalog.pool, None))
        written = [0] * len(answers)  # tokens
        while not all(answer.finish for answer in answers):
            _, event = await self._event()
            assert isinstance(event, Token), "there are samples that have not ended"
            answer = answers[event.sample]
            answer.add(event.token_id, event.log_prob, event.finish)
            extra: dict[str, Any] = {}
            if all(one.finish for one in answers):
                _, end = await self._event()
                assert isinstance(end, Ended), "the last sample has ended"
                extra = {"t2": extension(chosen, self.catalog.pool, end.pass2_s)}
            text = answer.new_text()
            if text or event.finish:
                yield self.writer.piece(event.sample, answer, text, written[event.sample], **extra)
                written[event.sample] = len(answer.tokens)

    async def _event(self) -> tuple[int, Chosen | Token | Ended]:
        """The next event, and the number of its prompt.

        Raises:
            APIError: the job has failed, or the request's time is over.
        """
        try:
            # By a deadline, as a stream is read by one task after another, and a timeout belongs to one.
            async with asyncio.timeout_at(self.deadline_s):
                number, event = await self.events.get()
        except TimeoutError as error:
            raise APIError(
                503,
                f"The answer was not ready after {self.settings.timeout_s:g} s. Ask for fewer tokens, or come again "
                "when less is asked of the server.",
                code="timeout",
            ) from error
        if isinstance(event, Failed):
            raise _failure(event)
        return number, event

    def _answers(self) -> list[list[Answer]]:
        lm = self.catalog.lm
        return [[Answer(lm, ask.sampling.stop) for _ in range(ask.sampling.samples)] for ask in self.asks]

    def _emitter(self, loop: asyncio.AbstractEventLoop, number: int) -> Callable[[Event], None]:
        def emit(event: Event) -> None:
            loop.call_soon_threadsafe(self.events.put_nowait, (number, event))

        return emit

    def _usage(self, answers: Sequence[Answer]) -> CompletionUsage:
        made = sum(len(answer.tokens) for answer in answers)
        return CompletionUsage(
            prompt_tokens=self.prompt_tokens, completion_tokens=made, total_tokens=self.prompt_tokens + made
        )


async def unless_hung_up(answer: Awaitable[Got], hung_up: Awaitable[None]) -> Got | None:
    """The answer; None, with the answer cancelled, where the client hung up before."""
    work, gone = asyncio.ensure_future(answer), asyncio.ensure_future(hung_up)
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else None
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


def _failure(event: Failed) -> APIError:
    if event.asked_wrong:
        return APIError(400, event.message, code="invalid_value")
    if event.unavailable:
        return APIError(503, event.message, code="backend_unavailable")
    if event.message == STOPPED:
        return APIError(503, event.message, code="stopping")
    return APIError(500, event.message, code="internal_error")
