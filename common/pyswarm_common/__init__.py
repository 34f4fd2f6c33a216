"""The shared vocabulary of every part: objects, specs, task states, errors, ids, clock, wire and certificates."""
