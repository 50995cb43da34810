"""Load, cost and reports: what a served model is worth, measured from outside."""
