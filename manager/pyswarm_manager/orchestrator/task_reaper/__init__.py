"""The task reaper: deletes tasks that nobody needs any more."""
