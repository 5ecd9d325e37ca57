"""One test a clause, named as the clause."""
