"""The highest rate at which an SLO holds on a running server, and what an answer costs there."""
