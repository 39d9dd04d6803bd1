"""What runs inside a user's job or beside it: events out, figures in."""
