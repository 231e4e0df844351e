"""What runs inside a training container.

This package travels into the container on its own, so it imports nothing of the rest of
sf_sagemaker, and only libraries that the container's image has.
"""
