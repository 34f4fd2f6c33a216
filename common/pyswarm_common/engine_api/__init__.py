"""What every route of the Engine API shares: errors as Docker words them, filters, times and fast JSON."""
