"""The pages of docs/ and the files for people at the root."""
