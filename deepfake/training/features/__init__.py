"""A frozen backbone's outputs, computed once and read by every head that is trained on them."""
