"""The commands of the Makefile that run the code location in their own process."""
