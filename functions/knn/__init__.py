"""A scikit-learn classifier of irises, fetched from a bucket."""
