"""Optimisers that step on all parameters as one vector."""
