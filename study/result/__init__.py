"""From the winner to a model folder: trained anew, the test opened once, everything written down."""
