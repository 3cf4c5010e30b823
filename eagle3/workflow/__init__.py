"""What the rules need before any job: the run, files from outside, settings, images, GPUs."""
