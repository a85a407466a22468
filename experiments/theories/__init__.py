"""What theory predicts about lottery tickets, and the measurement beside it."""
