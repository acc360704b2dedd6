"""The Rosetta stone of convolutional attention: one function, four styles, one truth. The README tells the rest."""
