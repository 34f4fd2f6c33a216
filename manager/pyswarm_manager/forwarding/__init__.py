"""Requests that only the leading manager can answer, carried out from every manager."""
