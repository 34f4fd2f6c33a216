"""The dispatcher: sessions with the agents, their heartbeats, assignments out and statuses in."""
