"""One file per mixing method; each turns its settings into a `MixPlan`."""
