"""Configuration file of gunicorn (``-c python:nodeobs.web.gunicorn_conf``): runs when loaded, as such files do."""

from __future__ import annotations

import os
import sys

from nodeobs.errors import ConfigurationError
from nodeobs.settings import Settings
from nodeobs.web.logs import configure_logging
from nodeobs.web.server import gunicorn_settings

try:
    _settings = Settings.load(os.environ)
    _gunicorn_settings = gunicorn_settings(_settings)
except ConfigurationError as error:
    sys.exit(f"nodeobs: {error}")

configure_logging(_settings.log_level, _settings.log_format)
globals().update(_gunicorn_settings)
