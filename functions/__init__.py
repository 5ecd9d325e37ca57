"""Cloud Functions that serve the same models without a container, one folder per function.

functions-framework runs main.py; Google installs requirements.txt. `registry` lists the other files of this project
that a function needs, and `packaging` copies them all to build/functions/NAME, where the function is run and
from where it is deployed.
"""
