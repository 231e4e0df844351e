"""Running a training job: the job as a value, its name, its attempts, and the platforms it runs on."""
