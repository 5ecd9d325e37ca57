"""From an image to predictions on Vertex AI, and back to nothing that costs: python -m deploy --help.

plan.py decides, in pure code, what the next step is. Of the other modules only the package google/ and
buckets.py call Google. Each command looks at what there is, takes one step, and looks again: whatever
interrupted it, running it again goes on from there.
"""
