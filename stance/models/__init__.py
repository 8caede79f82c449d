"""The base model: where it lies, how it is loaded, and whether two copies of it agree."""
