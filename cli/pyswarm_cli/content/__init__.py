"""`pyswarm secret …` and `pyswarm config …`, and how services refer to secrets and configs."""
