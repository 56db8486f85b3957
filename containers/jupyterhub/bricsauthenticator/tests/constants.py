"""What the tests and the hub's configuration both name; imported by each hub, so it imports nothing."""

PLATFORM = "test.platform"
AUDIENCE = "test-hub"
API_TOKEN = "0123456789abcdef0123456789abcdef"
CULLER_TOKEN = "fedcba9876543210fedcba9876543210"
START_TIMEOUT = 120
"""Seconds that a server may take to start, on a busy machine too."""
