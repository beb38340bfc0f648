"""What a request says and may have: bodies, headers, keys, SLOs, and the words of refusals."""
