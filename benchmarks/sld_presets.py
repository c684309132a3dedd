"""The settings of Safe Latent Diffusion's authors (Schramowski et al. 2022), for comparisons. In the default window they
change nothing (docs/settings.md), so the product does not offer them."""
from sd_debias.core.method.safe_latent import SafeLatentGuidance

PRESETS = {  # the warm-up is a share of the authors' 50 steps
    "weak": SafeLatentGuidance(200, 0.0, 0.0, 0.0, start=15 / 50),
    "medium": SafeLatentGuidance(1000, 0.01, 0.3, 0.4, start=10 / 50),
    "strong": SafeLatentGuidance(2000, 0.025, 0.5, 0.7, start=7 / 50),
    "max": SafeLatentGuidance(5000, 1.0, 0.5, 0.7, start=0.0),
}
