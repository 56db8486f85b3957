"""The other tasks, one module for each."""
