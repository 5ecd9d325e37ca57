"""Cloud Functions: the same models without a container. One folder a function.

main.py is what functions-framework runs, requirements.txt what Google installs beside it. What
a function takes of the rest of this project is a link in its folder, and becomes a copy where
its source is laid out to be deployed (`source.py`): there is one text of it.
"""
