"""Cloud Functions: the same models without a container. One folder a function.

main.py is what functions-framework runs, requirements.txt what Google installs beside it. The
catalogue names what else of this project a function consists of; `source.py` lays all of it out in
build/functions/NAME, from where the function is run here and deployed.
"""
