"""What methods that learn by gradients share: their targets, what gradients are made of, and the descent."""
