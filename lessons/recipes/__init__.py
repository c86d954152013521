"""How each lesson checkpoint is trained, one file per lesson."""
