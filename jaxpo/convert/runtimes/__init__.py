"""Models handed to other runtimes by those runtimes' own converters, and compared with what they compute there."""
