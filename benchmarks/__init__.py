"""What the pipeline costs, measured against what a user would do instead."""
