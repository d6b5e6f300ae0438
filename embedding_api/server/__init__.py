"""Gunicorn's worker as an event loop, and how Gunicorn starts it."""
