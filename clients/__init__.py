"""The client's side: a Flower ClientApp and the local adversarial training behind it. No package imports it except the
engines, by name.
"""
