"""Load by Locust: one run, shared by the processes that generate it, and told by one of them."""
