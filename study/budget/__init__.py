"""Planning a study by hours: how fast this machine is, what a network costs on it, and the plan that follows."""
