"""The key of encrypted overlays that all nodes share: made when it is first needed, and another one twice a day."""
