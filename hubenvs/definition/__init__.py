"""What a person writes, checked and merged into a frozen Environment."""
