"""The stages of `invoke up`, one module for each."""
