"""What can be known to fail before anything expensive begins."""
