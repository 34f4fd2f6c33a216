"""A task's story: why it was made, when it reached each state, what was before and after it; as fields and as sentences."""
