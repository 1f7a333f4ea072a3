"""What is maximised, and the judges that nothing maximises."""
