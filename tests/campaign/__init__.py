"""The reliability campaign: it damages, kills, crowds and fills, and sorts what becomes of it by itself."""
