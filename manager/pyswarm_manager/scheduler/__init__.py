"""The scheduler: gives each pending task the node that suits it best, or says why none does."""
