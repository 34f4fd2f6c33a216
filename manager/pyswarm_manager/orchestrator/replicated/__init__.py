"""The replicated orchestrator: keeps as many tasks of each replicated service alive as its spec asks for."""
