"""For those who ask an endpoint."""
