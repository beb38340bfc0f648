"""Profiles from life: iteration times of a live endpoint, of an engine's own step log, or of a model in PyTorch."""
