"""Runs compared: scores, statistics, figures."""
