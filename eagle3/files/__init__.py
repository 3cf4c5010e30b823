"""Files that runs are made of: manifests, tensors, and objects in remote storage."""
