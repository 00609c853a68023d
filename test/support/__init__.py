"""What tests share: rigs, small networks, recordings and data."""
