"""The recipes that come with jaxpo: `jaxpo run NAME` finds them here, `jaxpo recipes copy NAME` takes one out.

In a checkout `configs/` is this folder.
"""
