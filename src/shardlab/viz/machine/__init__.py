"""The machine that the ranks share: what lies between two of them."""
