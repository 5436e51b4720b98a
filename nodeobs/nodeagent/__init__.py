"""The agent: one asyncio process on each node that profiles its targets."""
