"""Moves envelopes and blobs between peers; decides nothing about whether a claim is true."""
