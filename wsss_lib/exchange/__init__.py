"""Maps, masks and annotations as other people's code writes and reads them."""
