"""Turn texts into embedding vectors over HTTP."""

__version__ = "0.1.0"
