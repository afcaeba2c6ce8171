"""What an owner asks: how much there is, how much it is used, how much room is left.

Doors: `counting.Counting`, `amounts.Numbers`.
"""
