"""The constraint enforcer: ends tasks whose nodes may keep them no longer."""
