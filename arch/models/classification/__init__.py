"""Networks that map an image to the logits of its classes."""
