"""Playing recordings through the node and scoring what comes out."""
