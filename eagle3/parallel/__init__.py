"""Processes, ranks and the devices that they run on."""
