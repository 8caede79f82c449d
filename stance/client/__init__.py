"""Commands and pages that ask the endpoint, and what they need to know about it."""
