"""Several processes with one decider: carriers of bytes, and what they and it tell each other."""
