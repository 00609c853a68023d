"""`make demo`: a recording through the real node, with a table, a video and a page."""
