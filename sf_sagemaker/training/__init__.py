"""Running a training job: the job as a value, its name, its attempts, and its platforms."""
