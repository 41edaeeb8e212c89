"""What frozen encoders made of a data set, kept on disk: encode once, train many times.

``records`` (keys and bytes on disk), ``latents`` and ``text`` (what a record holds), ``build_latents`` and
``build_text`` (write a cache), ``read`` (training's view of it). No model is imported here: encoders are callables.
"""
