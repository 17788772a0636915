"""From a config to a batched environment."""
