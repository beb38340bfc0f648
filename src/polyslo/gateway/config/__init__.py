"""What the operator asks for: configuration files, flags, their mistakes and their changes."""
