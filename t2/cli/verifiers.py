"""Our tasks as an environment of verifiers, for trainers that run its environments: the reward is the task's score.

A taskset for verifiers (its own word for the data half of an environment), which it finds as `t2-verifiers`
(`t2_verifiers.py` at the top of the package). A task there is its data, which travels between processes: ours names
the task of t2, its keys, split and position, and reads the example again where it is scored.

Not done here: a model, a trainer; images, and turns that the task begins for the model, which a chat endpoint is not
sure to continue (both refused).
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import verifiers.v1 as vf
from hydra.utils import instantiate
from pydantic import Field

from t2.cli.compose import composed
from t2.tasks.base import Split, Task, grade
from t2.types import Example

TASKSET = "t2-verifiers"


class T2TasksetConfig(vf.TasksetConfig):  # type: ignore[misc]  # verifiers is not installed where types are checked
    """Which examples: `--env.taskset.choice add2 --env.taskset.split train`."""

    choice: str = "chain_sum"
    """A choice of conf/task."""
    split: Split = "train"
    keys: dict[str, Any] = Field(default_factory=dict)
    """Keys of the task, such as {"train_size": 100}."""


class T2Data(vf.TaskData):  # type: ignore[misc]
    """An example by where it stands."""

    choice: str
    split: Split
    keys: dict[str, Any]
    position: int
    answer: str | None


class T2Task(vf.Task[T2Data]):  # type: ignore[misc]
    """One example of a task of t2."""

    @vf.reward  # type: ignore[untyped-decorator]
    async def score_of_t2(self, trace: vf.Trace) -> float:
        """The task's score of the reply as it was written, from 0 to 1."""
        replies = trace.assistant_messages
        text = (replies[-1].content or "") if replies else ""
        given = await asyncio.to_thread(grade, self._task, self._example, text)
        return given.score

    @property
    def _task(self) -> Task:
        return build_task(self.data.choice, self.data.keys)

    @property
    def _example(self) -> Example:
        example: Example = self._task.split(self.data.split)[self.data.position]
        return example


class T2Taskset(vf.Taskset[T2Task, T2TasksetConfig]):  # type: ignore[misc]
    """The examples of a split, in their order."""

    def load(self) -> Iterator[T2Task]:
        """Yield a task per example.

        Raises:
            ValueError: an unknown task or key, or an example that a chat endpoint cannot be asked.
        """
        config = self.config
        for position, example in enumerate(build_task(config.choice, config.keys).split(config.split)):
            check(example, config.choice)
            data = T2Data(
                name=f"{config.choice}/{config.split}/{position}",
                prompt=turns(example),
                system_prompt=example.system,
                choice=config.choice,
                split=config.split,
                keys=config.keys,
                position=position,
                answer=example.answer,
            )
            yield T2Task(data, config.task)


class OneTurn(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
    """Asks once, in this process: our tasks need no tools, so no program has to be installed for an agent."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: T2Data,
        tool_interception_url: str | None = None,
    ) -> vf.ProgramResult:
        """Send the turns of the prompt to the rollout's endpoint, which samples and records the reply."""
        system, prompt = self.resolve_prompt(data)
        asked = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt)
        if system is not None:
            asked.insert(0, vf.SystemMessage(content=system))
        body = {"model": ctx.model, "messages": [{"role": one.role, "content": one.content} for one in asked]}
        async with httpx.AsyncClient(timeout=None) as client:  # the rollout has a timeout of its own
            reply = await client.post(
                f"{endpoint}/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"}
            )
        failed = reply.is_error
        return vf.ProgramResult(exit_code=int(failed), stdout="", stderr=reply.text if failed else "")


def load_environment(
    task: str = "chain_sum", *, split: Split = "train", agent: Mapping[str, Any] | None = None, **keys: Any
) -> vf.Env:
    """The environment of a task: `load_environment("gcd", split="train", train_size=100)`.

    Args:
        task: a choice of conf/task.
        split: train, val or test.
        agent: settings of verifiers for the one agent (harness, runtime, sampling, ...). Without them it asks
            once, and samples up to the task's own length and stop strings.
        keys: keys of the task.

    Raises:
        ValueError: an unknown task or key.
    """
    found = build_task(task, keys)
    sampling: dict[str, Any] = {"max_tokens": found.max_new_tokens}
    if found.form.stop:
        sampling["stop"] = list(found.form.stop)
    own = {"harness": {"id": TASKSET}, "runtime": {"type": "subprocess"}, "sampling": sampling}
    taskset = {"id": TASKSET, "choice": task, "split": split, "keys": keys}
    return vf.load_environment(vf.resolve_env_config({"taskset": taskset, "agent": own | dict(agent or {})}))


def build_task(choice: str, keys: Mapping[str, Any]) -> Task:
    """The task of conf/task; the same one for the same keys, so that its rows are read once."""
    return _built(choice, json.dumps(keys, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _built(choice: str, keys: str) -> Task:
    given = {f"task.{key}": value for key, value in json.loads(keys).items()}
    task: Task = instantiate(composed("evaluate", {"task": choice, **given}).task)
    return task


def check(example: Example, choice: str) -> None:
    """Raise ValueError for an example that is more than turns of text."""
    if example.images:
        raise ValueError(f"task={choice} asks about images, and this environment is of text. Choose another task.")
    if example.response_prefix:
        raise ValueError(
            f"task={choice} begins the model's turn ({example.response_prefix[:40]!r}), which a chat endpoint is not "
            "sure to continue. Set its key begun to false, or choose another task."
        )


def turns(example: Example) -> str | list[dict[str, str]]:
    """The prompt, after the turns of the solved examples where there are some."""
    if not example.shots:
        return example.prompt
    shown = [
        {"role": role, "content": text}
        for question, answer in example.shots
        for role, text in (("user", question), ("assistant", answer))
    ]
    return [*shown, {"role": "user", "content": example.prompt}]
