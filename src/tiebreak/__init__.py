"""Does the derivative that max-pooling takes at a tie matter, and when?"""
