"""Environments: from a config to a batch that steps together."""
