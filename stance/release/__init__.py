"""What goes to the Hugging Face Hub and into `data/release`."""
