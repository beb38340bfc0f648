"""What was decided, kept: written while it happens, replayed, asked what would have been."""
