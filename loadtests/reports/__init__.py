"""What was measured, told: the page, the figures, and what changed between two of them."""
