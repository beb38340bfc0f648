"""The asyncio shell: requests in, decisions, tokens out."""
