"""Results as people read them: terminal tables, figures, one self-contained page, and JSON."""
