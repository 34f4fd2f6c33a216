"""Copying files into containers and out of them. What is imported here is loaded by each copying process too: nothing."""
