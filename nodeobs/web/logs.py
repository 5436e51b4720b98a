"""One log for the service and gunicorn: lines for people, or JSON, on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog
from gunicorn.glogging import Logger
from structlog.typing import Processor


def configure_logging(level: str, fmt: Literal["console", "json"]) -> None:
    """Send everything that is logged to standard error. Calling it again changes nothing."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    render: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if fmt == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,
                repr_native_str=True,  # a value from outside must not move the terminal's cursor
            )
        ]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it writes a line for each request


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's messages go where all others go."""

    def setup(self, cfg: Any) -> None:
        """Take gunicorn's own handlers away again."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers = []
            logger.propagate = True
