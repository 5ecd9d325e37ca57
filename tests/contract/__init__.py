"""The contract suite itself: it names the clause that a broken server breaks."""
