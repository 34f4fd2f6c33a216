"""The etcd member of a manager: the child process that is supervised, and the client that talks to it."""
