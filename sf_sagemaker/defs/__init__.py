"""What runs here: one folder a model, in YAML."""
