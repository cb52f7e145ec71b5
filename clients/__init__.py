"""The client's end of the wire: a Flower ClientApp, and local adversarial training behind it."""
