"""What is learned of engines while they serve: tokens, speed, slack, their own counts."""
