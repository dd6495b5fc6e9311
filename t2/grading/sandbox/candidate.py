"""The candidate process: runs a program that a model wrote, and calls its function when asked to.

It is started inside a sandbox, from its source text, and knows no test: it gets the program, then arguments, one call
after the other, and answers with the value that came back or the name of what was raised. It answers on a private
descriptor; standard input, output and error are the null device. Each answer repeats the random number of its call, so
that whatever else a program may write there is no answer.

What it does not do: judge. A program can do to this process what it likes, find the descriptor and forge answers, or
stop answering. It gains nothing by that: a forged answer is a value like any other, and the expected ones were never
here. What remains is a program that writes down answers it knows from its prompt.
"""

from __future__ import annotations

import os
import sys

from .wire import LARGEST_ANSWER, Unencodable, encode, limit_resources, receive, send, silence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NAME = "candidate"  # of the module that the program runs as; dataclasses look theirs up


def main() -> None:
    """Serve one program until its judge hangs up."""
    questions, answers = os.dup(0), os.dup(1)
    silence()
    call, program, entry_point, memory_bytes, cpu_s, packages = receive(questions)
    send(answers, encode((call, "started", None)))
    limit_resources(memory_bytes, cpu_s)
    sys.path += [] if packages is None else [packages]
    try:
        function, trouble = load(program, entry_point)
        send(answers, encode((call, *trouble)))
        while function is not None:
            call, arguments, keywords = receive(questions)
            send(answers, answer(call, function, arguments, keywords))
    finally:
        os._exit(0)  # no exit hook of the program, no thread to wait for


def load(program: str, entry_point: str) -> tuple[Callable[..., Any] | None, tuple[str, str | None]]:
    """Run a program: the function it defines under that name, and what to say of it."""
    module = type(sys)(NAME)
    sys.modules[NAME] = module
    try:
        code = compile(program, f"<{NAME}>", "exec")
    except (SyntaxError, ValueError, OverflowError, RecursionError):  # null bytes, surrogates, endless brackets
        return None, ("syntax", None)
    try:
        exec(code, module.__dict__)
        function = module.__dict__.get(entry_point)
    except BaseException as error:
        return None, ("raised", builtin_name(error))
    return (function, ("ready", None)) if callable(function) else (None, ("syntax", None))


def answer(call: bytes, function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> bytes:
    """The message that says what a call came to."""
    try:
        return encode((call, "value", function(*arguments, **keywords)), LARGEST_ANSWER)
    except Unencodable:
        return encode((call, "refused", None))
    except BaseException as error:
        return encode((call, "raised", builtin_name(error)))


def builtin_name(error: BaseException) -> str:
    """The builtin exception that an exception is one of: ValueError for a JSONDecodeError."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
