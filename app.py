"""WSGI entry point: ``gunicorn app:app``."""

from nodeobs.web.composition import application

app = application()
