"""Joint diffusion: one network that denoises and classifies, the spaces it works in, and its counterfactuals."""
