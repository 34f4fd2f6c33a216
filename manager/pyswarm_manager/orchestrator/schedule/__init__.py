"""The schedule keeper: starts a new iteration of a job whenever its schedule says so."""
