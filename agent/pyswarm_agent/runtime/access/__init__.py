"""Reaching into containers that run: processes beside theirs, their streams, files, figures."""
