"""Methods made for pre-trained networks: learned slowly, or with parts of each task beside a frozen one, and with
classifiers that class statistics of features keep level."""
