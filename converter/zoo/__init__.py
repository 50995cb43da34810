"""Models that train in a minute on data that ships with scikit-learn; read them as examples."""
