"""The evaluation behind `docs/claims.md`: what it compares, how it is swept, and the page that it becomes."""
