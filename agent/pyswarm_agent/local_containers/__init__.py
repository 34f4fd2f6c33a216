"""Single containers on this node, as `docker run` makes them: created from the Engine API's bodies, restarted, networked."""
