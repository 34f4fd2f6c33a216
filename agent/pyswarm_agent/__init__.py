"""The agent: one session to a manager, a task machine, and a worker that runs tasks as containers."""
