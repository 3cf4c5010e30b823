"""Consumers of the tests: they run inside an engine's process."""

import os
import time
from pathlib import Path

from safetensors.torch import save_file


class Files:
    """Writes each document's states to a file of its own and logs the batches."""

    def __init__(self, folder, lengths):
        self.folder, self.lengths = Path(folder), dict(lengths)

    def add(self, documents, aux, last):
        sizes = [self.lengths[number] for number in documents]
        pieces = zip(documents, aux.split(sizes), last.split(sizes), strict=True)
        for number, own_aux, own_last in pieces:
            tensors = {"aux": own_aux.cpu().clone(), "last": own_last.cpu().clone()}
            save_file(tensors, self.folder / f"{number}.safetensors")
        with open(self.folder / "batches.txt", "a") as file:
            file.write(" ".join(map(str, documents)) + "\n")


class Failing:
    """Takes nothing."""

    def add(self, documents, aux, last):
        raise ValueError(f"no room for {len(documents)} documents\nsecond line")


class Sleeping:
    """Says that it has a batch and never comes back."""

    def __init__(self, sign):
        self.sign = Path(sign)

    def add(self, documents, aux, last):
        self.sign.touch()
        time.sleep(600)


class Environment:
    """Writes down the names of the variables it is started with."""

    def __init__(self, sign):
        Path(sign).write_text(" ".join(os.environ))

    def add(self, documents, aux, last):
        pass
