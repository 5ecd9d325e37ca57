"""kubernetes/ without a cluster: rendered, held against schemas, its pods run by Docker, deployed to a stand-in."""
