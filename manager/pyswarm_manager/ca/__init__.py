"""The certificate authority: lets nodes in by token and gives them certificates."""
