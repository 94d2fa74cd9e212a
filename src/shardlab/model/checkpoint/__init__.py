"""Files of weights: what each format offers (source), how it is read, what its tensors are called, who fetches it."""
