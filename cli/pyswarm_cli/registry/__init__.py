"""`pyswarm login` and `logout`: credentials of registries, kept where docker keeps them."""
