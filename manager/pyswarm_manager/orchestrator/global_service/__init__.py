"""The global orchestrator: keeps one task of a global service on each node that suits it."""
