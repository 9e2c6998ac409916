"""Using a trained network: prediction today; export, quantisation and serving plug in here."""
