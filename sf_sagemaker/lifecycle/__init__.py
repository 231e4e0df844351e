"""What happens to a model after training: its evaluation on later rows, against a baseline."""
