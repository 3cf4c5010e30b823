"""What the rules need before any job: the run, external files, settings, images, GPUs."""
