"""sd-debias: ComfyUI's entry.

ComfyUI imports this file under the pack's path as its name, pip's installation under `sd_debias`, and pytest with an
empty package. Only the first has a host around it.
"""
if __package__ and __package__ != "sd_debias":
    NODE_CLASS_MAPPINGS = {}
