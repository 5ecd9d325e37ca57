"""From an image to predictions on Vertex AI, and back to nothing that costs: python -m deploy --help.

plan.py decides, in pure code, what the next step is; google.py alone talks to Google; every other
module is one thing that a user asks for. Each command looks at what there is, takes one step, and
looks again: whatever interrupted it, running it again goes on from there.
"""
