"""The proxy behind uvicorn: told to stop, it first finishes the answers that it is passing on."""

import logging
import sys
from types import FrameType
from typing import TextIO

import uvicorn
from starlette.applications import Starlette

from cot_probe.serving.logs import JsonLines


class ProxyServer(uvicorn.Server):
    """uvicorn as a proxy needs it: no headers of its own, no access log, no WebSockets.

    Args:
        app: made by :func:`cot_probe.proxy.app.proxy_app`.
        finish_s: answers that are being passed on have so long to come to their end.
    """

    def __init__(self, app: Starlette, *, finish_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=max(1, int(finish_s)),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; the second time at once. The process then ends by itself, not by the signal."""
        self.force_exit = self.should_exit
        self.should_exit = True


def log_to(stream: TextIO | None = None) -> None:
    """Send the proxy's lines and uvicorn's, as JSON without text of transcripts, to ``stream`` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    # The client's own lines would show queries: keys stand in some.
    for name, level in (("cot_probe", logging.WARNING), ("uvicorn", logging.WARNING), ("httpx", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    logging.getLogger("cot_probe.proxy").setLevel(logging.INFO)
