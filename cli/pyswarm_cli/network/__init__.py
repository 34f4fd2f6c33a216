"""`pyswarm network …`: the overlays that join containers across hosts."""
