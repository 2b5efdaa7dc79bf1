"""Programs that run where a runtime is installed and jaxpo need not be: standard library, numpy and the runtime alone.

Each is started by its path and told as JSON what to do; `serve` has the form.
"""
