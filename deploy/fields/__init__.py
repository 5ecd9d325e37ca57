"""The fields of the settings, a group in each module. Their docstrings are the texts of --help. Pure."""
