"""Models that answer: endpoints, local and on SageMaker, and the scoring of a whole period."""
