"""Redis Streams: publisher, intake, dead letters, the embedded server. Nothing here imports redis before it is used."""
