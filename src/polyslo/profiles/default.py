"""The profile that is taken where none is named; apart from the library, which compiles, for who only names it."""

DEFAULT_PROFILE = "llama-3.1-8b-h200-tp1"
