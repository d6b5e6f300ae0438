"""Gunicorn's worker as an event loop: connections, requests, batches."""
