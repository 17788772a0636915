"""Composing and checking configs. The choices themselves are in conf/."""
