"""The HTTP API: one module a resource, and what they share."""
