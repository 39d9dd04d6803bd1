"""Front doors for events, and the group commit behind them."""
