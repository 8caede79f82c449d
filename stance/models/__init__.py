"""The base model: its record and place, the Hugging Face Hub, loading, and the drift between two copies."""
