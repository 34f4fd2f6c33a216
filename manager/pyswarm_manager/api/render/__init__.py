"""How the store's objects look in the Engine API: one module per noun, field by field as Docker 20.10 sends them."""
