"""How good an estimate of the gradient is: bias, variance and direction, measured (science: McCandlish et al. 1812.06162)."""
