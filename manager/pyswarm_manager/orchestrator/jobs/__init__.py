"""The job orchestrator: runs the tasks of replicated and global jobs until they have completed."""
