"""Images, bundles, the engine protocol and what perceiving yields: plain NumPy."""
