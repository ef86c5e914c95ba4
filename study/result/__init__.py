"""From the winner to a model folder: train it anew, open the test part once, and write everything down."""
