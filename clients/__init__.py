"""The client's side: a Flower ClientApp (`app`) and the work of one client (`local`). Only Flower and the engines load
it, by name; no package imports it.
"""
