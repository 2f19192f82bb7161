"""The record of a run: tables of losses and speeds, and a page of plots."""
