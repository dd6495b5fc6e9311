"""Runs the application in uvicorn until a signal ends it: no new requests then, and running ones end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from t2.run.messages import check_range
from t2.serving.engine import Engine
from t2.serving.settings import Settings

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Refuses requests as soon as a signal comes, also on connections that are open."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.refuse()
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: a free one.

    Raises:
        OSError: the port is taken, or the host is none of this machine's.
        ValueError: no such port.
    """
    check_range("port", port, at_least=0, at_most=65535)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen()  # so that a second server finds the port taken before it loads a model
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"Port {port} of {host} is taken. Give another one, as port={port + 1}.") from error
        raise OSError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Give a host of this machine."
        ) from error
    return made


def run_server(app: FastAPI, engine: Engine, listening: socket.socket, settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then let running requests end for at most `stop_timeout_s`."""
    config = uvicorn.Config(
        app,
        log_config=None,  # Hydra's
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.stop_timeout_s)),
        h11_max_incomplete_event_size=2**16,
    )
    server = _Server(config, engine)
    # uvicorn raises the signal again when it has ended; the end was in order, so that it is not to kill the process.
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(server.serve([listening]))
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    log.info("The server has ended.")
