"""The loops that turn services into tasks and tidy up after them: one folder per kind of service, and the task reaper."""
