"""A trained model on one's own pictures: apart from scoring."""
