"""Open-loop load against an OpenAI-compatible endpoint."""
