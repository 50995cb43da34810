"""The options that a model runs best with on this machine."""
