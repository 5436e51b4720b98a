"""Configuration that gunicorn finds by itself; the package has it, so that an installed one serves the same."""

from nodeobs.web.gunicorn_conf import *  # noqa: F403 gunicorn looks names up in this module
