"""Maps, masks and annotations in the forms of other people's code."""
