"""What can a user's own runs tell about a server?  A few times of its preset, with priors, intervals and limits."""
