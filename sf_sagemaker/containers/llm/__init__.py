"""The language-model container: its training script, and the model that the script leaves behind."""
