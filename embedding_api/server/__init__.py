"""How Gunicorn serves the application."""
