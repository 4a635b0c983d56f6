"""What was evaluated before?  A file of outcomes, by what was asked, from which a killed search resumes."""
